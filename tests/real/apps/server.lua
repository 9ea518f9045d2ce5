-- One answer by copas.
local copas, socket = require "copas", require "socket"
copas.addserver(assert(socket.bind("127.0.0.1", @PORT@, 1024)), function(raw)
  local one = copas.wrap(raw)
  one:receive "*l"
  one:send "HTTP/1.0 200 OK\r\n\r\nhello\n"
  raw:close()
end)
copas.loop()
