//! Objects under a prefix of an S3 bucket: named and parsed, not yet fetched.

use futures::{FutureExt as _, future::BoxFuture};

use crate::{FileFilter, ModelFolder, Progress, RegistryError, Source};

/// An S3 prefix. Its [`fetch`](Source::fetch) says that this version cannot read it.
#[derive(Debug, Clone, Copy, Default)]
pub struct S3Source;

impl Source for S3Source {
    fn fetch<'a>(
        &'a self,
        _: &'a FileFilter,
        _: &'a dyn Progress,
    ) -> BoxFuture<'a, Result<ModelFolder, RegistryError>> {
        async { Err(RegistryError::NotYetAvailable { scheme: "s3" }) }.boxed()
    }
}
