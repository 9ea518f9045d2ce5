# supervise -l 127.0.0.1:8080=web -- hypercorn --bind fd://{fd:web} app:app
# PyPI: hypercorn.


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b"hello from hypercorn\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
