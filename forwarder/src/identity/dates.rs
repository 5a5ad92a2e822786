//! When certificates end, and how that is said.

use anyhow::anyhow;
use rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

pub(super) const SECONDS_A_DAY: i64 = 86_400;
/// Days before its end from which a certificate is warned of.
pub const WARN_DAYS: i64 = 30;

/// A sentence about a certificate that has ended or will within [`WARN_DAYS`]; times in seconds since 1970.
#[must_use]
pub fn ending(what: &str, hint: &str, end_s: i64, now_s: i64) -> Option<String> {
    let days = end_s.saturating_sub(now_s).div_euclid(SECONDS_A_DAY);
    let when = match days {
        ..0 => "has ended".to_owned(),
        0 => "ends within a day".to_owned(),
        1 => "ends in a day".to_owned(),
        _ => format!("ends in {days} days"),
    };
    (days < WARN_DAYS).then(|| format!("{what} {when} ({}); hint: {hint}", rfc3339(end_s)))
}

/// When the first certificate of a chain ends, in seconds since 1970.
pub(super) fn chain_end(chain: &[CertificateDer<'_>]) -> anyhow::Result<i64> {
    chain.iter().try_fold(i64::MAX, |end, certificate| Ok(end.min(expiry(certificate)?)))
}

/// When a certificate ends, in seconds since 1970.
pub(super) fn expiry(certificate: &CertificateDer<'_>) -> anyhow::Result<i64> {
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|error| anyhow!("it cannot be parsed ({error})"))?;
    Ok(parsed.validity().not_after.timestamp())
}

/// A time in seconds since 1970 as RFC 3339 writes it, in UTC.
#[must_use]
pub fn rfc3339(seconds: i64) -> String {
    let Ok(time) = time::OffsetDateTime::from_unix_timestamp(seconds) else { return format!("@{seconds}") };
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second) = time.to_hms();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
