"""An application of quart."""
import quart

app = quart.Quart("site")


@app.get("/")
async def hello():
    return "hello\n"
