;; main(rounds): FNV-1a over `rounds` bytes, each the low byte of its index: a busy loop with a
;; result that can be checked.
(module
  (func (export "main") (param $rounds i32) (result i32)
    (local $hash i32)
    (local $i i32)
    (local.set $hash (i32.const 0x811c9dc5))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $rounds)))
        (local.set $hash
          (i32.mul
            (i32.xor (local.get $hash) (i32.and (local.get $i) (i32.const 0xff)))
            (i32.const 0x01000193)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (local.get $hash)))
