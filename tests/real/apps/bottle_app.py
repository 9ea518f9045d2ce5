"""An application of bottle."""
import bottle

app = bottle.Bottle()
app.route("/")(lambda: "hello\n")
bottle.run(app, host="127.0.0.1", port=@PORT@, quiet=True)
