//! What a model's `source` may say. Only its form: whether anything is there is found when it is read.

/// Why a source is refused, or `Ok`.
///
/// Three forms: a folder (any text without `://`), `hf://owner/name[@revision]`, `s3://bucket/prefix`.
pub(super) fn check(source: &str) -> Result<(), &'static str> {
    match source.split_once("://") {
        None if source.trim().is_empty() => Err("is blank"),
        None if source.starts_with("hf:") || source.starts_with("s3:") => Err("lacks two slashes after its scheme"),
        None => Ok(()),
        Some(("hf", repository)) => check_repository(repository),
        Some(("s3", place)) => check_bucket(place),
        Some(_) => Err("has an unknown scheme"),
    }
}

fn check_repository(text: &str) -> Result<(), &'static str> {
    let (repository, revision) = match text.split_once('@') {
        Some((repository, revision)) => (repository, Some(revision)),
        None => (text, None),
    };
    let Some((owner, name)) = repository.split_once('/') else { return Err("does not say owner/name") };
    let is_part = |part: &str| {
        (1..=96).contains(&part.len())
            && !part.starts_with(['.', '-'])
            && !part.ends_with(['.', '-'])
            && !part.contains("..")
            && !part.contains("--")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if !is_part(owner) || !is_part(name) {
        return Err("does not say owner/name");
    }
    let is_revision = |revision: &str| {
        revision.len() <= 200
            && revision.split('/').all(|part| !part.is_empty() && part != "." && !part.contains(".."))
            && revision.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
    };
    if revision.is_some_and(|revision| !is_revision(revision)) {
        return Err("has something after @ that is no branch, tag or commit");
    }
    Ok(())
}

fn check_bucket(place: &str) -> Result<(), &'static str> {
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let is_bucket = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte));
    if !is_bucket {
        return Err("does not name a bucket (3 to 63 lower-case letters, digits, `.` and `-`)");
    }
    let prefix = prefix.trim_matches('/');
    if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("has a prefix with an empty part, `.` or `..`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms_are_accepted_and_nothing_else() {
        for good in [
            "models/minilm",
            "../minilm",
            "/srv/models/a b",
            "./hf:x",
            "hf://owner/name",
            "hf://o/n@v1.0",
            "hf://o/n@refs/pr/1",
            "s3://bucket",
            "s3://bucket/",
            "s3://my.bucket/a/b/",
        ] {
            assert_eq!(check(good), Ok(()), "{good:?}");
        }
        for bad in [
            " ",
            "hf:owner/name",
            "s3:/bucket",
            "ftp://h/x",
            "HF://o/n",
            "://x",
            "hf://",
            "hf://name",
            "hf:///name",
            "hf://owner/",
            "hf://a/b/c",
            "hf://../x",
            "hf://o/..",
            "hf://o/n@",
            "hf://o--o/n",
            "hf://o/n@../x",
            "hf://o/n@a//b",
            "hf://o/n@a b",
            "s3://",
            "s3://UP/x",
            "s3://bucket/../x",
            "s3://bucket/a//b",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
