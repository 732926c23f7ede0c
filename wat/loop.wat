;; main(): runs until it is stopped.
(module
  (func (export "main")
    (loop (br 0))))
