"""The same answer as WSGI, ASGI, and an application of each framework."""
import os
import socket
import sys

PORT = @PORT@
HOST = os.environ.get("AT", "127.0.0.1") or None


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
        web.run_app(site, **({"sock": listener()} if fd else {"host": HOST, "port": PORT}))
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
                server.listen(PORT, HOST)
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
    elif kind in ("sanic", "sanic-workers"):
        from sanic import Sanic
        from sanic.response import text
        site = Sanic("site")

        @site.get("/")
        async def hello(request):
            return text("hello\n")

        site.run("127.0.0.1", PORT, **({"single_process": True} if kind == "sanic" else {"workers": 2}))
    elif kind == "cheroot":
        from cheroot import wsgi
        wsgi.Server(("127.0.0.1", PORT), app).start()
    elif kind == "robyn":
        from robyn import Robyn
        site = Robyn(__file__)

        @site.get("/")
        async def hello(request):
            return "hello\n"

        site.start(host="127.0.0.1", port=PORT)
    elif kind == "cherrypy":
        import cherrypy

        class Root:
            @cherrypy.expose
            def index(self):
                return "hello\n"

        cherrypy.config.update({"server.socket_host": "127.0.0.1", "server.socket_port": PORT, "log.screen": False})
        cherrypy.quickstart(Root())
    elif kind == "websockets":
        import asyncio
        from websockets.asyncio.server import serve

        async def echo(connection):
            async for message in connection:
                await connection.send(message)

        async def run():
            async with serve(echo, **({"sock": listener()} if fd else {"host": "127.0.0.1", "port": PORT})) as server:
                await server.serve_forever()

        asyncio.run(run())
    elif kind == "grpc":
        from concurrent import futures
        import grpc
        server = grpc.server(futures.ThreadPoolExecutor(2))
        server.add_insecure_port(f"127.0.0.1:{PORT}")
        server.start()
        server.wait_for_termination()
    elif kind == "socketserver":
        from http.server import HTTPServer, SimpleHTTPRequestHandler
        server = HTTPServer(("127.0.0.1", PORT), SimpleHTTPRequestHandler, bind_and_activate=not fd)
        if fd:
            server.socket = listener()
        server.serve_forever()
    elif kind in ("django", "django-reload"):
        from django.conf import settings
        settings.configure(DEBUG=True, ROOT_URLCONF=(), SECRET_KEY="x", ALLOWED_HOSTS=["*"])
        from django.core.management import execute_from_command_line
        execute_from_command_line(["x", "runserver", *(["--noreload"] if kind == "django" else []), f"{HOST}:{PORT}" if HOST else str(PORT)])


if __name__ == "__main__":
    main(sys.argv[1])
