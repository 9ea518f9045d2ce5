; One answer; FD is the number of a socket to serve, where it is set.
(use-modules (web server))
(define fd (getenv "FD"))
(run-server
 (lambda (request body) (values '((content-type . (text/plain))) "hello\n"))
 'http
 (if fd (list #:socket (fdopen (string->number fd) "r+0")) (list #:port @PORT@)))
