;; As early.wat to the byte's number, but the block ends behind the addition.
(module
  (func (export "main") (result i32) (local $n i32)
    (block
      (br_if 0 (i32.const 1))
      (local.set $n (i32.add (local.get $n) (i32.const 1))))
    (local.get $n)))
