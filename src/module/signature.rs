//! placeholder until merge
use crate::engine::Text;
#[derive(Clone, Copy, Debug)]
pub struct Trust<'a>(&'a [[u8; 32]]);
impl Trust<'_> {
    pub fn check(&self, _: &[u8]) -> Result<(), Text> {
        Ok(())
    }
}
