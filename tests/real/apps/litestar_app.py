"""An application of litestar."""
import litestar


@litestar.get("/")
async def hello() -> str:
    return "hello\n"


app = litestar.Litestar([hello])
