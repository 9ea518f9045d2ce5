"""An application of FastAPI."""
import fastapi

app = fastapi.FastAPI()


@app.get("/")
async def hello():
    return "hello\n"
