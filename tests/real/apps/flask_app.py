"""An application of flask."""
import flask

app = flask.Flask("site")


@app.get("/")
def hello():
    return "hello\n"
