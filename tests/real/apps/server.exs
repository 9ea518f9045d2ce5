# One answer by gen_tcp; FD is the number of a socket to accept on, where it is set.
options = [:binary, active: false, reuseaddr: true, backlog: 1024]
{:ok, listener} =
  case System.get_env("FD") do
    nil -> :gen_tcp.listen(@PORT@, [{:ip, {127, 0, 0, 1}} | options])
    fd -> :gen_tcp.listen(0, [{:fd, String.to_integer(fd)} | options])
  end
serve = fn again ->
  {:ok, one} = :gen_tcp.accept(listener)
  spawn(fn ->
    :gen_tcp.recv(one, 0)
    :gen_tcp.send(one, "HTTP/1.0 200 OK\r\n\r\nhello\n")
    :gen_tcp.close(one)
  end)
  again.(again)
end
serve.(serve)
