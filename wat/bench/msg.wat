;; main(): 1,000 messages of 8 words through a ring of 64 messages, 2 KiB. The producer sends; when
;; the ring is full the consumer takes one message, and at the end all that are left. Word w of
;; message s is (8 * s + w) * 0x9e3779b1; the result is FNV-1a over all words in the order taken.
(module
  (memory 1 1)
  ;; Messages sent and taken so far: the ring holds those between, message s in place s mod 64.
  (global $sent (mut i32) (i32.const 0))
  (global $taken (mut i32) (i32.const 0))
  (global $hash (mut i32) (i32.const 0x811c9dc5))
  (func $place (param $message i32) (result i32)
    (i32.shl (i32.and (local.get $message) (i32.const 63)) (i32.const 5)))
  (func $send (local $at i32) (local $end i32) (local $number i32)
    (local.set $at (call $place (global.get $sent)))
    (local.set $end (i32.add (local.get $at) (i32.const 32)))
    (local.set $number (i32.shl (global.get $sent) (i32.const 3)))
    (loop $next
      (i32.store (local.get $at) (i32.mul (local.get $number) (i32.const 0x9e3779b1)))
      (local.set $number (i32.add (local.get $number) (i32.const 1)))
      (br_if $next (i32.lt_u
        (local.tee $at (i32.add (local.get $at) (i32.const 4))) (local.get $end))))
    (global.set $sent (i32.add (global.get $sent) (i32.const 1))))
  (func $take (local $at i32) (local $end i32)
    (local.set $at (call $place (global.get $taken)))
    (local.set $end (i32.add (local.get $at) (i32.const 32)))
    (loop $next
      (global.set $hash (i32.mul
        (i32.xor (global.get $hash) (i32.load (local.get $at)))
        (i32.const 0x01000193)))
      (br_if $next (i32.lt_u
        (local.tee $at (i32.add (local.get $at) (i32.const 4))) (local.get $end))))
    (global.set $taken (i32.add (global.get $taken) (i32.const 1))))
  (func $is_full (result i32)
    (i32.eq (i32.sub (global.get $sent) (global.get $taken)) (i32.const 64)))
  (func (export "main") (result i32) (local $left i32)
    (local.set $left (i32.const 1000))
    (loop $next
      (if (call $is_full) (then (call $take)))
      (call $send)
      (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (loop $drain
      (call $take)
      (br_if $drain (i32.lt_u (global.get $taken) (global.get $sent))))
    (global.get $hash)))
