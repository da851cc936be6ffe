//! Which cluster a caller means, on every call of a Directory, beside the request.
//!
//! An address may come to be another cluster's: a Directory whose disk was wiped, or a name that was given away. What it would
//! answer about files, blobs and fences would be about others of the same names. So who has once heard of a cluster names it, and
//! a Directory of another one refuses.

use tonic::{
    Request, Status,
    metadata::{MetadataMap, MetadataValue},
    service::Interceptor,
};

use crate::{
    status::{Failure, Reason},
    types::ClusterId,
};

const KEY: &str = "dfs-cluster";

/// Names a cluster on requests; nothing while it is not known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamp(pub Option<ClusterId>);

impl Stamp {
    pub fn put<T>(self, request: &mut Request<T>) {
        if let Some(value) = self.0.and_then(|cluster| MetadataValue::try_from(cluster.to_string()).ok()) {
            request.metadata_mut().insert(KEY, value);
        }
    }
}

impl Interceptor for Stamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        self.put(&mut request);
        Ok(request)
    }
}

/// Refuses a request that names another cluster than `ours`. Who names none knows none.
pub fn check(request: &MetadataMap, ours: ClusterId) -> Result<(), Failure> {
    match request.get(KEY).map(|theirs| theirs.to_str()) {
        None => Ok(()),
        Some(Ok(theirs)) if theirs == ours.to_string() => Ok(()),
        Some(_) => Err(other_cluster(ours)),
    }
}

/// An answer of a cluster that was not meant.
pub fn other_cluster(theirs: ClusterId) -> Failure {
    let text = format_args!("a Directory of another cluster, {theirs}, is at this address");
    Failure::new(Reason::OtherCluster, text).with("cluster", theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_request_that_names_another_cluster_is_refused() {
        let (ours, theirs) = (ClusterId::random(), ClusterId::random());
        let checked = |stamp: Stamp| {
            let mut request = Request::new(());
            stamp.put(&mut request);
            check(request.metadata(), ours).map_err(|failure| failure.reason)
        };
        assert_eq!(checked(Stamp(None)), Ok(()));
        assert_eq!(checked(Stamp(Some(ours))), Ok(()));
        assert_eq!(checked(Stamp(Some(theirs))), Err(Reason::OtherCluster));
    }
}
