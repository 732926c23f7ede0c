;; grow(pages): what memory.grow gives.
(module
  (memory 0 8)
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))
