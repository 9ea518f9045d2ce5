import asynchttpserver, asyncdispatch, nativesockets

proc hello(request: Request) {.async.} =
  await request.respond(Http200, "hello\n")

waitFor newAsyncHttpServer().serve(Port(@PORT@), hello, "127.0.0.1")
