;; main(): FNV-1a over the numbers 0..10,000, each taken whole: arithmetic without a memory. The
;; hash is the instance's state: a second call goes on from where the first ended.
(module
  (global $hash (mut i32) (i32.const 0x811c9dc5))
  (func (export "main") (result i32) (local $i i32)
    (loop $next
      (global.set $hash
        (i32.mul (i32.xor (global.get $hash) (local.get $i)) (i32.const 0x01000193)))
      (br_if $next (i32.lt_u
        (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 10000))))
    (global.get $hash)))
