//! Broken stores, queues, schedules, commands and webhooks, and what the check says of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use halny_types::project::{Checked, Problem, check};

fn rendered(text: &str) -> String {
    let lines = |problems: &[Problem]| -> String {
        problems.iter().map(|problem| problem.render("halny.toml") + "\n").collect::<String>()
    };
    match check(text) {
        Ok(Checked { .. }) => "accepted\n".to_owned(),
        Err(problems) => lines(&problems),
    }
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_what_would_be_right() {
    let cases = [
        (
            "[store]\nurl = \"postgres://h/d\"\n",
            "2:1: store.url: `url` means nothing to the engine \"sqlite\"; take it out, or write engine = \"postgres\"",
        ),
        (
            "[store]\nengine = \"postgres\"\n",
            "1:1: store: the engine \"postgres\" needs to know where its server is; write url = \"postgres://...\", or url_env",
        ),
        (
            "[store]\nengine = \"postgres\"\nurl = \"postgres://u:secret@h/d\"\n",
            "the URL holds a password, which does not belong into this file; take it out, and name the variable that holds it in password_env",
        ),
        (
            "[store]\nengine = \"postgres\"\nurl = \"mysql://h\"\n",
            "this is no URL of the engine \"postgres\"; write one that begins with postgres://",
        ),
        (
            "[store]\nengine = \"postgres\"\nurl_env = \"1X\"\n",
            "store.url_env: \"1X\" is no name of an environment variable",
        ),
        ("[store]\nblobs = \"s3://x\"\n", "store.blobs: \"s3://x\" does not name a bucket"),
        ("[store]\nblobs = \"hf://a/b\"\n", "is no place to write to; write a folder or s3://bucket/prefix"),
        (
            "[[queues]]\nname = \"a\"\n[[queues]]\nname = \"A\"\n",
            "4:8: queues[1].name: \"A\" differs from the name of queue 0, \"a\", only by case",
        ),
        (
            "[[queues]]\nname = \"a\"\nbackoff_ms = 9\nbackoff_max_ms = 8\n",
            "3:14: queues[0].backoff_ms: the first pause, 9 ms, is longer than the longest, 8 ms (backoff_max_ms)",
        ),
        ("[[queues]]\nname = \"a\"\nconcurrency = 0\n", "3:15: queues[0].concurrency: 0 is out of range"),
        (
            "[[schedules]]\nname = \"s\"\ncron = \"* * * * *\"\nkind = \"webhook\"\nqueue = \"none\"\n",
            "5:9: schedules[0].queue: there is no queue \"none\"; write one of [[queues]], \"default\" or \"batches\"",
        ),
        ("[[schedules]]\nname = \"s\"\ncron = \"* * * * *\"\nkind = \"cook\"\n", "4:8: schedules[0].kind"),
        ("[[commands]]\nname = \"c\"\nprogram = []\n", "3:11: commands[0].program"),
        (
            "[[commands]]\nname = \"c\"\nprogram = [\" \"]\n",
            "commands[0].program[0]: the program has no name; write the program's name or path",
        ),
        (
            "[[commands]]\nname = \"c\"\nprogram = [\"x\"]\nmemory = \"1KiB\"\n",
            "4:10: commands[0].memory: no program starts in so little memory; write a size of \"1MiB\" or more",
        ),
        (
            "[[commands]]\nname = \"c\"\nprogram = [\"x\"]\nenv = { \"A B\" = \"x\" }\n",
            "\"A B\" is no name of an environment variable; write one of letters, digits and `_`",
        ),
        (
            "[[webhooks]]\nname = \"w\"\nurl = \"ftp://host\"\nsecret_env = \"S\"\n",
            "3:7: webhooks[0].url: \"ftp://host\" is no place to send to",
        ),
        (
            "[[webhooks]]\nname = \"w\"\nurl = \"https://\"\nsecret_env = \"S\"\n",
            "webhooks[0].url: the URL names no host; write https://host/path",
        ),
        (
            "[[webhooks]]\nname = \"w\"\nurl = \"https://u:hush@h/\"\nsecret_env = \"S\"\n",
            "the URL holds a name or a password, which do not belong into this file",
        ),
        ("[jobs]\nlease_ms = 10\n", "2:12: jobs.lease_ms"),
    ];
    let mut wrong = String::new();
    for (text, expected) in cases {
        let told = rendered(text);
        let is_secret = ["secret@", "hush"].iter().any(|secret| told.contains(secret));
        if !told.contains(expected) || is_secret {
            wrong += &format!("--- file\n{text}--- expected\n{expected}\n--- told\n{told}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn what_is_right_is_accepted() {
    for text in [
        "[store]\nfolder = \"s\"\nblobs = \"s3://bucket/prefix\"\n",
        "[store]\nengine = \"postgres\"\nurl_env = \"HALNY_STORE_URL\"\n",
        "[[schedules]]\nname = \"s\"\ncron = \"* * * * *\"\nkind = \"webhook\"\nqueue = \"batches\"\n",
        "[jobs]\nslots = 0\n",
    ] {
        assert_eq!(rendered(text), "accepted\n", "{text}");
    }
}
