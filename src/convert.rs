//! From the wire to the words of dfs and back, shared by the services and the client.
//!
//! Whatever comes from the wire may be wrong. Every function that reads takes the name of the field, so that the failure
//! says which one it was; none panics, whatever it is given. What a number means to a core is the core's to judge: here
//! only what can never be right is refused.

pub mod cluster;
pub mod stamp;

use std::{fmt, str::FromStr};

use crate::{
    pb,
    status::{Failure, Reason},
    types::{
        AsOf, BLOB_LENGTH_MAX, BlobId, ClusterId, Extent, FencingToken, GroupId, Incarnation, Path, Precondition,
        Revision, ServerId, SessionId, StoreId, Timestamp, Version, WriteId, WriteMode,
    },
};

/// The last second that a `google.protobuf.Timestamp` may name: the end of the year 9999.
const TIMESTAMP_SECONDS_MAX: i64 = 253_402_300_799;

/// `BAD_PATH`, with the field in the metadata.
pub fn path(field: &str, text: &str) -> Result<Path, Failure> {
    text.parse().map_err(|error| Failure::new(Reason::BadPath, format_args!("{field}: {error}")).with("field", field))
}

fn parse<T>(field: &str, text: &str) -> Result<T, Failure>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    text.parse().map_err(|error| Failure::bad_argument(field, error))
}

/// A UUID that somebody drew: the nil UUID is a caller that forgot to, and would share results with every other such.
fn drawn<T: FromStr<Err = uuid::Error>>(field: &str, text: &str) -> Result<T, Failure> {
    if text.is_empty() {
        return Err(Failure::bad_argument(field, "a UUID is missing"));
    }
    let id = uuid::Uuid::parse_str(text).map_err(|error| Failure::bad_argument(field, error))?;
    if id.is_nil() {
        return Err(Failure::bad_argument(field, "the nil UUID names nothing"));
    }
    parse(field, text)
}

pub fn write_id(field: &str, text: &str) -> Result<WriteId, Failure> {
    drawn(field, text)
}

pub fn blob_id(field: &str, text: &str) -> Result<BlobId, Failure> {
    drawn(field, text)
}

pub fn session_id(field: &str, text: &str) -> Result<SessionId, Failure> {
    drawn(field, text)
}

pub fn store_id(field: &str, text: &str) -> Result<StoreId, Failure> {
    drawn(field, text)
}

pub fn incarnation(field: &str, text: &str) -> Result<Incarnation, Failure> {
    drawn(field, text)
}

pub fn cluster_id(field: &str, text: &str) -> Result<ClusterId, Failure> {
    drawn(field, text)
}

pub fn server_id(field: &str, text: &str) -> Result<ServerId, Failure> {
    parse(field, text)
}

/// Empty is none.
pub fn optional_server_id(field: &str, text: &str) -> Result<Option<ServerId>, Failure> {
    if text.is_empty() { Ok(None) } else { server_id(field, text).map(Some) }
}

/// A submessage that must be there.
pub fn required<T>(field: &str, message: Option<T>) -> Result<T, Failure> {
    message.ok_or_else(|| Failure::bad_argument(field, "is missing"))
}

/// Milliseconds are kept, what is finer is dropped.
pub fn timestamp(field: &str, timestamp: &prost_types::Timestamp) -> Result<Timestamp, Failure> {
    let in_range = (0..=TIMESTAMP_SECONDS_MAX).contains(&timestamp.seconds);
    if !in_range || !(0..1_000_000_000).contains(&timestamp.nanos) {
        return Err(Failure::bad_argument(field, "a time lies between 1970 and 9999, its nanos below a second"));
    }
    Ok(Timestamp(timestamp.seconds as u64 * 1000 + timestamp.nanos as u64 / 1_000_000))
}

pub fn optional_timestamp(field: &str, value: Option<&prost_types::Timestamp>) -> Result<Option<Timestamp>, Failure> {
    value.map(|value| timestamp(field, value)).transpose()
}

impl From<Timestamp> for prost_types::Timestamp {
    fn from(timestamp: Timestamp) -> Self {
        Self { seconds: (timestamp.0 / 1000) as i64, nanos: (timestamp.0 % 1000) as i32 * 1_000_000 }
    }
}

pub fn as_of(field: &str, as_of: Option<&pb::AsOf>) -> Result<AsOf, Failure> {
    match as_of.and_then(|as_of| as_of.moment.as_ref()) {
        None => Ok(AsOf::Now),
        Some(pb::as_of::Moment::Revision(revision)) => Ok(AsOf::Revision(Revision(*revision))),
        Some(pb::as_of::Moment::Time(time)) => timestamp(field, time).map(AsOf::Time),
    }
}

/// `None` for now.
pub fn as_of_to_pb(as_of: AsOf) -> Option<pb::AsOf> {
    let moment = match as_of {
        AsOf::Now => return None,
        AsOf::Revision(revision) => pb::as_of::Moment::Revision(revision.0),
        AsOf::Time(time) => pb::as_of::Moment::Time(time.into()),
    };
    Some(pb::AsOf { moment: Some(moment) })
}

/// Absent is the precondition that always holds.
pub fn precondition(precondition: Option<&pb::Precondition>) -> Precondition {
    precondition.map_or_else(Precondition::default, |precondition| Precondition {
        fencing_token: precondition.fencing_token.map(FencingToken),
        if_version: precondition.if_version.map(Version),
    })
}

impl From<Precondition> for pb::Precondition {
    fn from(precondition: Precondition) -> Self {
        Self {
            fencing_token: precondition.fencing_token.map(|token| token.0),
            if_version: precondition.if_version.map(|version| version.0),
        }
    }
}

/// The mode, with the offset that only a patch has.
pub fn write_mode(field: &str, mode: i32, offset: u64) -> Result<WriteMode, Failure> {
    let mode = match pb::WriteMode::try_from(mode) {
        Ok(pb::WriteMode::Replace) => WriteMode::Replace,
        Ok(pb::WriteMode::Append) => WriteMode::Append,
        Ok(pb::WriteMode::Patch) => return Ok(WriteMode::Patch { offset }),
        Ok(pb::WriteMode::Unspecified) => return Err(Failure::bad_argument(field, "is missing")),
        Err(_) => return Err(Failure::bad_argument(field, format_args!("there is no write mode {mode}"))),
    };
    if offset == 0 { Ok(mode) } else { Err(Failure::bad_argument("offset", "only a patch has an offset")) }
}

/// The mode and its offset, which is 0 unless it is a patch.
pub fn write_mode_to_pb(mode: WriteMode) -> (pb::WriteMode, u64) {
    match mode {
        WriteMode::Replace => (pb::WriteMode::Replace, 0),
        WriteMode::Append => (pb::WriteMode::Append, 0),
        WriteMode::Patch { offset } => (pb::WriteMode::Patch, offset),
    }
}

/// Not empty, and inside of what a blob can be.
pub fn extent(field: &str, extent: &pb::Extent) -> Result<Extent, Failure> {
    let end = extent.blob_offset.checked_add(extent.length);
    if extent.length == 0 || end.is_none_or(|end| end > BLOB_LENGTH_MAX) {
        return Err(Failure::bad_argument(field, "an extent has a length and lies inside of a blob"));
    }
    Ok(Extent {
        group: GroupId(extent.group),
        blob: blob_id(field, &extent.blob)?,
        blob_offset: extent.blob_offset,
        length: extent.length,
    })
}

pub fn extents(field: &str, extents: &[pb::Extent]) -> Result<Vec<Extent>, Failure> {
    extents.iter().map(|item| extent(field, item)).collect()
}

impl From<&Extent> for pb::Extent {
    fn from(extent: &Extent) -> Self {
        Self {
            group: extent.group.0,
            blob: extent.blob.to_string(),
            blob_offset: extent.blob_offset,
            length: extent.length,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field_of(failure: &Failure) -> &str {
        failure.metadata.get("field").map_or("", String::as_str)
    }

    #[test]
    fn a_failure_names_the_field() {
        let failure = path("from_path", "a/b").unwrap_err();
        assert_eq!((failure.reason, field_of(&failure)), (Reason::BadPath, "from_path"));
        for bad in ["", "x", "00000000-0000-0000-0000-000000000000"] {
            let failure = write_id("write_id", bad).unwrap_err();
            assert_eq!((failure.reason, field_of(&failure)), (Reason::BadArgument, "write_id"), "{bad:?}");
        }
        assert_eq!(field_of(&server_id("member_id", "No Such").unwrap_err()), "member_id");
        assert_eq!(optional_server_id("reporter_id", ""), Ok(None));
        assert_eq!(field_of(&required::<()>("merged", None).unwrap_err()), "merged");
    }

    #[test]
    fn times_outside_of_the_calendar_are_refused() {
        let of = |seconds, nanos| timestamp("begin_time", &prost_types::Timestamp { seconds, nanos });
        assert_eq!(of(1, 2_999_999), Ok(Timestamp(1002)));
        for (seconds, nanos) in [(-1, 0), (i64::MAX, 0), (i64::MIN, 0), (0, -1), (0, 1_000_000_000), (0, i32::MIN)] {
            assert!(of(seconds, nanos).is_err(), "{seconds} {nanos}");
        }
    }

    #[test]
    fn a_write_mode_has_an_offset_only_if_it_is_a_patch() {
        assert_eq!(write_mode("mode", pb::WriteMode::Patch.into(), 7), Ok(WriteMode::Patch { offset: 7 }));
        assert_eq!(field_of(&write_mode("mode", pb::WriteMode::Append.into(), 7).unwrap_err()), "offset");
        for unknown in [0, 4, -1, i32::MAX] {
            assert_eq!(field_of(&write_mode("mode", unknown, 0).unwrap_err()), "mode");
        }
    }

    #[test]
    fn an_extent_lies_inside_of_a_blob() {
        let of = |blob_offset, length| {
            let blob = BlobId::random().to_string();
            extent("extents", &pb::Extent { group: 1, blob, blob_offset, length })
        };
        assert!(of(0, BLOB_LENGTH_MAX).is_ok());
        for (offset, length) in [(0, 0), (1, BLOB_LENGTH_MAX), (u64::MAX, 1), (1, u64::MAX)] {
            assert!(of(offset, length).is_err(), "{offset} {length}");
        }
    }

    proptest! {
        #[test]
        fn what_we_send_we_read_back(ms in 0..TIMESTAMP_SECONDS_MAX as u64 * 1000, revision: u64, token: Option<u64>, version: Option<u64>) {
            prop_assert_eq!(timestamp("t", &Timestamp(ms).into()), Ok(Timestamp(ms)));
            for moment in [AsOf::Now, AsOf::Revision(Revision(revision)), AsOf::Time(Timestamp(ms))] {
                prop_assert_eq!(as_of("as_of", as_of_to_pb(moment).as_ref()), Ok(moment));
            }
            let held = Precondition { fencing_token: token.map(FencingToken), if_version: version.map(Version) };
            prop_assert_eq!(precondition(Some(&held.into())), held);
            for mode in [WriteMode::Replace, WriteMode::Append, WriteMode::Patch { offset: revision }] {
                let (wire, offset) = write_mode_to_pb(mode);
                prop_assert_eq!(write_mode("mode", wire.into(), offset), Ok(mode));
            }
        }
    }
}
