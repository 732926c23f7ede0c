;; main(): counts its rounds until it is stopped. rounds(): how many there were.
(module
  (global $rounds (mut i32) (i32.const 0))
  (func (export "main")
    (loop $next
      (global.set $rounds (i32.add (global.get $rounds) (i32.const 1)))
      (br $next)))
  (func (export "rounds") (result i32) (global.get $rounds)))
