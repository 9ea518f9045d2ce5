"""The same answer as WSGI, ASGI, and an application of each framework."""
import os
import socket
import sys

PORT = @PORT@


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"hello\n"]


application = app


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"6")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello\n"})


def listener():
    return socket.socket(fileno=int(os.environ["FD"]))


def main(kind):
    fd = "FD" in os.environ
    if kind == "aiohttp":
        from aiohttp import web

        async def hello(request):
            return web.Response(text="hello\n")

        site = web.Application()
        site.router.add_get("/", hello)
        web.run_app(site, **({"sock": listener()} if fd else {"host": "127.0.0.1", "port": PORT}))
    elif kind == "tornado":
        import asyncio
        import tornado.httpserver
        import tornado.web

        class Hello(tornado.web.RequestHandler):
            def get(self):
                self.write("hello\n")

        async def run():
            server = tornado.httpserver.HTTPServer(tornado.web.Application([("/", Hello)]))
            if fd:
                own = listener()
                own.setblocking(False)
                server.add_sockets([own])
            else:
                server.listen(PORT, "127.0.0.1")
            await asyncio.Event().wait()

        asyncio.run(run())
    elif kind == "bjoern":
        import bjoern
        if fd:
            bjoern.server_run(listener(), app)
        else:
            bjoern.run(app, "127.0.0.1", PORT)
    elif kind == "gevent":
        from gevent import pywsgi
        from gevent import socket as green
        own = green.socket(fileno=int(os.environ["FD"])) if fd else ("127.0.0.1", PORT)
        pywsgi.WSGIServer(own, app, log=None).serve_forever()
    elif kind == "eventlet":
        import eventlet
        from eventlet import wsgi
        own = eventlet.green.socket.socket(fileno=int(os.environ["FD"])) if fd else eventlet.listen(("127.0.0.1", PORT))
        wsgi.server(own, app)
    elif kind == "werkzeug":
        from werkzeug.serving import make_server
        make_server("127.0.0.1", PORT, app, threaded=True, fd=int(os.environ["FD"]) if fd else None).serve_forever()
    elif kind == "sanic":
        from sanic import Sanic
        from sanic.response import text
        site = Sanic("site")

        @site.get("/")
        async def hello(request):
            return text("hello\n")

        site.run("127.0.0.1", PORT, single_process=True)
    elif kind == "cheroot":
        from cheroot import wsgi
        wsgi.Server(("127.0.0.1", PORT), app).start()
    elif kind == "socketserver":
        from http.server import HTTPServer, SimpleHTTPRequestHandler
        server = HTTPServer(("127.0.0.1", PORT), SimpleHTTPRequestHandler, bind_and_activate=not fd)
        if fd:
            server.socket = listener()
        server.serve_forever()
    elif kind == "django":
        from django.conf import settings
        settings.configure(DEBUG=True, ROOT_URLCONF=(), SECRET_KEY="x", ALLOWED_HOSTS=["*"])
        from django.core.management import execute_from_command_line
        execute_from_command_line(["x", "runserver", "--noreload", f"127.0.0.1:{PORT}"])


if __name__ == "__main__":
    main(sys.argv[1])
