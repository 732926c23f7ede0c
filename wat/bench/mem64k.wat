;; main(): 100 rounds, each of which writes 1,024 bytes and reads them back; FNV-1a over what was
;; read. Round r has byte i = 7 * i + 13 * r, and the kibibyte r mod 64 of the page: all of it is
;; used.
(module
  (memory 1 1)
  (func $write (param $round i32) (param $at i32) (local $i i32)
    (loop $next
      (i32.store8 (i32.add (local.get $at) (local.get $i))
        (i32.add
          (i32.mul (local.get $i) (i32.const 7))
          (i32.mul (local.get $round) (i32.const 13))))
      (br_if $next (i32.lt_u
        (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1024)))))
  (func $read (param $hash i32) (param $at i32) (result i32) (local $end i32)
    (local.set $end (i32.add (local.get $at) (i32.const 1024)))
    (loop $next
      (local.set $hash (i32.mul
        (i32.xor (local.get $hash) (i32.load8_u (local.get $at)))
        (i32.const 0x01000193)))
      (br_if $next (i32.lt_u
        (local.tee $at (i32.add (local.get $at) (i32.const 1))) (local.get $end))))
    (local.get $hash))
  (func (export "main") (result i32) (local $round i32) (local $at i32) (local $hash i32)
    (local.set $hash (i32.const 0x811c9dc5))
    (loop $next
      (local.set $at (i32.shl (i32.and (local.get $round) (i32.const 63)) (i32.const 10)))
      (call $write (local.get $round) (local.get $at))
      (local.set $hash (call $read (local.get $hash) (local.get $at)))
      (br_if $next (i32.lt_u
        (local.tee $round (i32.add (local.get $round) (i32.const 1))) (i32.const 100))))
    (local.get $hash)))
