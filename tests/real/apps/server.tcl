# One answer by the event loop of Tcl.
proc hello {channel host port} {
    fconfigure $channel -translation binary -blocking 0
    fileevent $channel readable [list answer $channel]
}
proc answer {channel} {
    if {[gets $channel line] < 0 && ![eof $channel]} return
    catch {puts -nonewline $channel "HTTP/1.0 200 OK\r\n\r\nhello\n"}
    catch {close $channel}
}
socket -server hello -myaddr 127.0.0.1 @PORT@
vwait forever
