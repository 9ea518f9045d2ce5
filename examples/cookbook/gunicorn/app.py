# supervise -l 127.0.0.1:8080 -- gunicorn --workers 2 app:app
# PyPI: gunicorn. It knows LISTEN_FDS. Behind a wrapper that is its parent: "supervise exec -- gunicorn app:app" there.
# Not with --reuse-port, with which it takes no socket. It says READY=1 before its workers have loaded the application;
# with --preload it loads that first.


def app(environ, start_response):
    body = b"hello from gunicorn\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
