//! TEMP
use postrider_domain::join::Pin;
use zeroize::Zeroizing;
/// T
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct SealError;
/// T
pub enum Context {
    /** T */
    AuthorityKey {
        /** T */
        authority: Pin,
    },
}
/// T
pub struct Sealer;
impl Sealer {
    /// T
    pub fn seal(&self, _c: &Context, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        Ok(plain.to_vec())
    }
    /// T
    pub fn open(&self, _c: &Context, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        Ok(sealed.to_vec().into())
    }
}
