library(httpuv)
runServer("127.0.0.1", @PORT@, list(call = function(req) list(status = 200L, headers = list("Content-Type" = "text/plain"), body = "hello\n")))
