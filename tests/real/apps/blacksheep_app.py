"""An application of BlackSheep."""
import blacksheep

app = blacksheep.Application()


@blacksheep.get("/")
async def hello():
    return "hello\n"
