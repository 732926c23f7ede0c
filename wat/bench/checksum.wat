;; main(): 100 rounds over 4 KiB, as 1,024 words: each round writes them anew, then folds them into
;; a checksum by rotate and exclusive or. The words are 0, 1, 2, … through all rounds, each times
;; 0x9e3779b1.
(module
  (memory 1 1)
  (func $write (param $number i32) (local $at i32)
    (loop $next
      (i32.store (local.get $at) (i32.mul (local.get $number) (i32.const 0x9e3779b1)))
      (local.set $number (i32.add (local.get $number) (i32.const 1)))
      (br_if $next (i32.lt_u
        (local.tee $at (i32.add (local.get $at) (i32.const 4))) (i32.const 4096)))))
  (func $fold (param $sum i32) (result i32) (local $at i32)
    (loop $next
      (local.set $sum (i32.xor
        (i32.rotl (local.get $sum) (i32.const 5))
        (i32.load (local.get $at))))
      (br_if $next (i32.lt_u
        (local.tee $at (i32.add (local.get $at) (i32.const 4))) (i32.const 4096))))
    (local.get $sum))
  (func (export "main") (result i32) (local $round i32) (local $sum i32)
    (loop $next
      (call $write (i32.shl (local.get $round) (i32.const 10)))
      (local.set $sum (call $fold (local.get $sum)))
      (br_if $next (i32.lt_u
        (local.tee $round (i32.add (local.get $round) (i32.const 1))) (i32.const 100))))
    (local.get $sum)))
