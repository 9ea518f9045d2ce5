# supervise -l 127.0.0.1:8080=web -- uvicorn app:app --fd {fd:web} --log-level warning
# PyPI: uvicorn. The same with --workers 2.


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b"hello from uvicorn\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
