//! What file servers tell of the copies on their disks, and what of it wants attention. Pure, as [`super::health`].

use std::collections::{BTreeMap, BTreeSet};

use super::health::{Check, Health, check};
use crate::types::{BlobId, ServerId, Timestamp};

/// For so long after it was mended, damage is still mentioned: a disk that did it once may do it again.
const REPAIR_IS_NEWS_MS: u64 = 24 * 3600 * 1000;

/// What one file server last said of its copies. Memory alone, as the rest of its statistics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreReport {
    pub damaged_chunks: u64,
    /// Since its process started.
    pub repaired_chunks: u64,
    pub last_repair: Option<Timestamp>,
    /// Committed blobs that it has damaged and no other member whole; the first of them by name.
    pub lost_blobs: u64,
    pub lost: Vec<BlobId>,
    /// Blobs of the groups that it leads with fewer live copies than there should be.
    pub under_replicated_blobs: u64,
}

pub type Reports = BTreeMap<ServerId, StoreReport>;

/// Blobs that no server has whole. Every member of a group counts the same ones.
pub fn lost_blobs(reports: &Reports) -> u64 {
    let named: BTreeSet<BlobId> = reports.values().flat_map(|report| report.lost.iter().copied()).collect();
    let most = reports.values().map(|report| report.lost_blobs).max().unwrap_or(0);
    most.max(named.len() as u64)
}

pub fn under_replicated_blobs(reports: &Reports) -> u64 {
    reports.values().map(|report| report.under_replicated_blobs).sum()
}

/// Lost, damaged, mended of late: worst first.
pub fn checks(reports: &Reports, now: Timestamp) -> Vec<Check> {
    let of = |is: fn(&StoreReport) -> bool| reports.iter().filter(move |(_, report)| is(report));
    let mut checks = Vec::new();
    let lost = lost_blobs(reports);
    if lost > 0 {
        let summary =
            format!("{lost} blobs are lost: no server has them whole, and the files that need them cannot be read");
        let hint = "`dfs-cli fsck --deep` names files and versions: restore an older version, or write them again; \
                    if a server or a disk that held a copy is away, bring it back first";
        let subjects = of(|report| report.lost_blobs > 0).map(|(server, _)| server);
        checks.push(check("BLOBS_LOST", Health::Error, summary, hint, subjects));
    }
    let is_waiting = |report: &StoreReport| report.damaged_chunks > 0 && report.lost_blobs == 0;
    let damaged: u64 = of(is_waiting).map(|(_, report)| report.damaged_chunks).sum();
    if damaged > 0 {
        let summary = format!("{damaged} chunks are damaged on disk: they are read from other copies meanwhile");
        let hint = "they are fetched again by themselves as soon as another member can be read";
        checks.push(check("CHUNKS_DAMAGED", Health::Warn, summary, hint, of(is_waiting).map(|(server, _)| server)));
    }
    let is_news = |report: &StoreReport| {
        report.repaired_chunks > 0
            && report.last_repair.is_some_and(|at| now.0.saturating_sub(at.0) < REPAIR_IS_NEWS_MS)
    };
    let news = || reports.iter().filter(|(_, report)| is_news(report));
    if let Some(last) = news().filter_map(|(_, report)| report.last_repair).max() {
        let repaired: u64 = news().map(|(_, report)| report.repaired_chunks).sum();
        let minutes = now.0.saturating_sub(last.0) / 60_000;
        let summary = format!(
            "{repaired} chunks were damaged on disk and have been mended from other copies, the last {minutes} min ago"
        );
        let hint = "nothing is lost; a disk that damages data again is to be replaced";
        checks.push(check("CHUNKS_REPAIRED", Health::Warn, summary, hint, news().map(|(server, _)| server)));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(100 * 24 * 3600 * 1000);

    fn reports(reports: &[(&str, StoreReport)]) -> Reports {
        reports.iter().map(|(id, report)| (id.parse().unwrap(), report.clone())).collect()
    }

    fn codes(reports: &Reports) -> Vec<(&'static str, Health, String)> {
        let found = checks(reports, NOW);
        assert!(found.iter().all(|check| !check.hint.is_empty()));
        found.into_iter().map(|check| (check.code, check.health, check.subjects.join(","))).collect()
    }

    #[test]
    fn whole_copies_are_not_mentioned() {
        assert_eq!(codes(&reports(&[("a", StoreReport::default()), ("b", StoreReport::default())])), []);
    }

    #[test]
    fn a_blob_that_every_member_has_lost_is_counted_once() {
        let blob = BlobId::random();
        let lost = StoreReport { damaged_chunks: 2, lost_blobs: 1, lost: vec![blob], ..StoreReport::default() };
        let reports = reports(&[("a", lost.clone()), ("b", lost), ("c", StoreReport::default())]);
        assert_eq!(lost_blobs(&reports), 1);
        assert_eq!(codes(&reports), [("BLOBS_LOST", Health::Error, "a,b".to_owned())]);
        // Of many only some are named.
        let many = StoreReport { lost_blobs: 1000, lost: vec![blob], ..StoreReport::default() };
        assert_eq!(lost_blobs(&self::reports(&[("a", many)])), 1000);
    }

    #[test]
    fn damage_is_mentioned_while_it_lasts_and_its_repair_for_a_day() {
        let damaged = StoreReport { damaged_chunks: 3, ..StoreReport::default() };
        let repaired = |ago: u64| StoreReport {
            repaired_chunks: 2,
            last_repair: Some(Timestamp(NOW.0 - ago)),
            ..StoreReport::default()
        };
        let old = repaired(REPAIR_IS_NEWS_MS);
        let reports = reports(&[("a", damaged), ("b", repaired(120_000)), ("c", old)]);
        let expected =
            [("CHUNKS_DAMAGED", Health::Warn, "a".to_owned()), ("CHUNKS_REPAIRED", Health::Warn, "b".to_owned())];
        assert_eq!(codes(&reports), expected);
        let summary = &checks(&reports, NOW)[1].summary;
        assert!(summary.starts_with("2 chunks ") && summary.ends_with("the last 2 min ago"), "{summary}");
    }
}
