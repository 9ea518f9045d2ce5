// CGO_ENABLED=0 go build server.go && supervise -l 127.0.0.1:8080 --intercept-bind -- ./server
// Debian: golang-go. A static program that calls the kernel without any library: nothing could be preloaded into it.
// For a deploy build anew, then "supervise swap". One that may be changed can take net.FileListener(os.NewFile(3, "")).

package main

import (
	"fmt"
	"net/http"
)

func main() {
	http.HandleFunc("/", func(response http.ResponseWriter, request *http.Request) {
		fmt.Fprint(response, "hello from go\n")
	})
	panic(http.ListenAndServe(":8080", nil))
}
