(require :asdf)
(handler-bind ((warning #'muffle-warning))
  (asdf:load-system :hunchentoot))
(eval (read-from-string "
(progn
  (hunchentoot:define-easy-handler (hello :uri \"/\") () \"hello\")
  (hunchentoot:start (make-instance 'hunchentoot:easy-acceptor :address \"127.0.0.1\" :port @PORT@
                                    :access-log-destination nil :message-log-destination nil)))"))
(loop (sleep 3600))
