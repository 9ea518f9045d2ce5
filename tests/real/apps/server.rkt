#lang racket/base
(require web-server/servlet-dispatch web-server/web-server web-server/http)
(define stop
  (serve #:dispatch (dispatch/servlet (lambda (request) (response/output (lambda (out) (write-bytes #"hello\n" out)))))
         #:listen-ip "127.0.0.1" #:port @PORT@))
(with-handlers ([exn:break? (lambda (e) (stop))]) (sync/enable-break never-evt))
