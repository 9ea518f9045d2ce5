"""An application of falcon."""
import falcon

app = falcon.App()
