//! Templates that try to take a server down, each in a process of its own whose peak of memory is read.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;

use halny_chat::{ChatError, ChatTemplate, Conversation, Resource, Specials};

/// Peak of the whole process, the test's own memory included.
const PEAK_KIB_MAX: u64 = 64 * 1024;

const CHILD: &str = "HALNY_BOMB";

const GROW: &str = "{% set ns = namespace(a=[1], s='ab', d={'k': 1}) %}{% for i in range(40) %}";
const SHARED: &str = "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}";
const LARGE: &str = "{% set t = 'ab' * 3000000 %}{% set l = [1] * 150000 %}";

/// What is tried: what stands before it, and itself.
fn bombs() -> Vec<String> {
    let mut bombs = vec![format!("{{% set x = 'ab' %}}{}", "{% set x = x ~ x %}".repeat(40))];
    for one in [
        "{{ 'x' * 1000000000 }}",
        "{{ 1000000000 * 'x' }}",
        "{{ [1] * 1000000000 }}",
        "{{ (1,) * 1000000000 }}",
        "{% for i in range(1000000000) %}{% endfor %}",
        "{{ range(10**9) | length }}",
        "{{ range(-9223372036854775807, 9223372036854775807) }}",
        "{{ '%1000000000s' | format('a') }}",
        "{{ '%99999999999999999999999s' % 'a' }}",
        "{{ '%01000000000d' % 5 }}",
        "{{ '%.1000000000f' % 1.5 }}",
        "{{ '{:1000000000}'.format('a') }}",
        "{{ 'a' | indent(1000000000, true) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a'.ljust(1000000000) }}{{ 'a'.zfill(1000000000) }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        "{{ [1] | batch(1000000000, 'x') | list }}",
        "{{ [1] | slice(1000000000) | list }}",
        "{% set a, b = [1] * 20000000 %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(x) %}{{ ((((((((((f(x + 1))))))))))) ~ [[[[[f(x)]]]]] }}{% endmacro %}{{ f(0) }}",
        "{% macro f() %}{% if true %}{% for i in [1] %}{% with %}{% call f() %}{% endcall %}{% endwith %}{% endfor %}{% endif %}{% endmacro %}{{ f() }}",
        "{% macro f() %}{% set x = 'ab' * 1000 %}{{ [1]|map('upper')|join }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{% macro m() %}{% endmacro %}{% set ns = namespace() %}{% for b in range(99) %}{% macro n() %}{% endmacro %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{{ 'output without an end, a line at a time, for as long as it takes' * 20 }}{% endfor %}",
        "{% set ns = namespace(a=[1]) %}{% for i in range(20000) %}{% set ns.a = [ns.a] %}{% endfor %}",
        "{% set ns = namespace(a={}) %}{% for i in range(20000) %}{% set ns.a = {'a': ns.a} %}{% endfor %}",
        "{% set ns = namespace(a=range(100000)) %}{% for i in range(20000) %}{% set ns.a = ns.a[0:] %}{% endfor %}",
        "{% for i in range(300000) %}{% set x = range(300000) | unique | list %}{% endfor %}",
    ] {
        bombs.push(one.to_owned());
    }
    for growth in [
        "{% set ns.s = ns.s ~ ns.s %}",
        "{% set ns.s = ns.s + ns.s %}",
        "{% set ns.s = ns.s * 2 %}",
        "{% set ns.s = ns.s | replace('a', 'aa') | replace('b', 'bb') %}",
        "{% set ns.s = ns.s.replace('', 'xy') %}",
        "{% set ns.s = [ns.s, ns.s] | join(ns.s) %}",
        "{% set ns.s = ns.s.join([ns.s, ns.s]) %}",
        "{% set ns.s = '%s%s' % (ns.s, ns.s) %}",
        "{% set ns.s = '{0}{0}'.format(ns.s) %}",
        "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}",
        "{% set ns.s = ns.s | indent(ns.s, true) %}",
        "{% set ns.s = (ns.s ~ '\\u0390') | upper ~ ns.s %}",
        "{% set ns.s = ns.s | tojson | tojson %}{% set ns.s = ns.s ~ ns.s %}",
        "{% set ns.s = ns.s | escape | urlencode ~ ns.s %}",
        "{% set ns.a = ns.a + ns.a %}",
        "{% set ns.a = ns.a * 2 %}",
        "{% set ns.a = (ns.a ~ ns.a) | list %}",
        "{% set ns.a = (ns.a ~ ns.a).split('1') %}",
        "{% set ns.a = [ns.a, ns.a] | sum(start=[]) %}",
        "{% set ns.a = (ns.a + ns.a) | sort | reverse | list %}",
        "{% set ns.a = [ns.a | groupby('x') if false else ns.a + ns.a] | first %}",
    ] {
        bombs.push(format!("{GROW}{growth}{{% endfor %}}{{{{ ns.s | length }}}}"));
    }
    for walk in [
        "{{ ns.a }}",
        "{{ ns.a | tojson }}",
        "{{ ns.a | string }}",
        "{% set x = '' ~ ns.a %}",
        "{% set x %}{{ ns.a }}{% endset %}",
        "{{ ns.a == ns.b }}",
        "{{ ns.a in [ns.b] }}",
        "{{ [ns.a, ns.b] | sort }}",
        "{{ [ns.a, ns.b] | unique | list }}",
        "{{ '%s' % [ns.a] }}",
        "{{ [ns.a] | join }}",
        "{{ ns.a is eq ns.b }}",
        "{{ raise_exception(ns.a) }}",
    ] {
        bombs.push(format!("{SHARED}{walk}"));
    }
    for work in [
        "{% set x = 'c' in t %}",
        "{% set x = t.find('c') %}",
        "{% set x = t | upper %}",
        "{% set x = t | replace('c', 'd') %}",
        "{% set x = t[::-1] %}",
        "{% set x = t[5999999] %}",
        "{% set x = t.strip('ab') %}",
        "{% set x = t == t ~ 'a' %}",
        "{% set x = t.split('c') %}",
        "{% set x = t | list %}",
        "{% set x = t | title %}",
        "{% set x = t is lower %}",
        "{% set x = t | length %}",
        "{% set x = l | sort %}",
        "{% set x = l == l[:] %}",
        "{% set x = l | map('string') | list %}",
        "{% set x = l | batch(1) | list %}",
        "{% set x = l | groupby('a') %}",
        "{% set x = l.index(2) %}",
        "{% set x = '%s' % (l, l) %}",
        "{% set x = dict(l) %}",
        "{% set x = raise_exception(*l) %}",
    ] {
        bombs.push(format!("{LARGE}{{% for i in range(100000) %}}{work}{{% endfor %}}"));
    }
    bombs
}

/// Sources that are hard to read rather than to render.
fn sources() -> Vec<String> {
    let open = |piece: &str| piece.repeat(250_000 / piece.len());
    let mut sources =
        vec![open("a"), open("{"), open("{%"), open("{{"), open("{#"), open("{% raw %}"), open("{{ 'a' }}")];
    for piece in
        ["(", "[", "{1:", "not ", "-", "+", "a.", "a[", "a(", "a+", "a~", "a if ", "a|trim", "a and ", "a<", "'a' "]
    {
        sources.push(format!("{{{{ {} }}}}", open(piece)));
    }
    for piece in
        ["{% if a %}", "{% for a in b %}", "{% set a %}", "{% macro f() %}", "{% call f() %}", "{% filter trim %}"]
    {
        sources.push(open(piece));
    }
    sources.push(format!("{{% if a %}}{}{{% endif %}}", open("{% elif a %}")));
    sources.push(format!("{{{{ a{} }}}}", open(".b")));
    sources.push(format!("{{{{ 1{} }}}}", open("+1")));
    sources.push(format!("{{{{ ''{} }}}}", open("|trim")));
    sources.push(format!("{{{{ a{} }}}}", open(" if a")));
    sources.push(format!("{{% set a = [{}] %}}", open("1,")));
    sources.push(format!("{{% set {} = 1 %}}", open("a,")));
    sources
}

fn render(source: &str) -> Result<String, ChatError> {
    ChatTemplate::compile(source, Specials::default())?.render(&Conversation::default())
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The process that the tests below start once for each bomb.
#[test]
#[ignore = "started by the other tests, with what to render"]
fn child() {
    let Ok(number) = std::env::var(CHILD) else { return };
    let bomb = bombs().swap_remove(number.parse().unwrap());
    let error = render(&bomb).unwrap_err();
    let known = matches!(error, ChatError::TooMuch(_) | ChatError::Unrenderable { .. });
    assert!(known, "{error}");
    assert!(error.to_string().len() < 400);
    assert!(peak_kib() < PEAK_KIB_MAX, "{} KiB at most: {bomb}", peak_kib());
}

#[cfg(target_os = "linux")]
#[test]
fn every_bomb_ends_in_an_error_with_little_memory() {
    let bombs = bombs();
    let failed: Vec<&String> = bombs
        .iter()
        .enumerate()
        .filter(|(number, _)| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "child", "--ignored", "--quiet"]).env(CHILD, number.to_string());
            !child.output().unwrap().status.success()
        })
        .map(|(_, bomb)| bomb)
        .collect();
    assert!(failed.is_empty(), "{} of {}: {failed:#?}", failed.len(), bombs.len());
}

#[test]
fn a_source_without_sense_is_read_or_refused_on_a_small_stack() {
    let reading = std::thread::Builder::new().stack_size(1024 * 1024).spawn(|| {
        for source in sources() {
            let _ = render(&source);
        }
    });
    reading.unwrap().join().unwrap();
    assert!(matches!(render(&"a".repeat(300_000)), Err(ChatError::SourceTooLarge(300_000))));
}

#[test]
fn calls_within_calls_end_on_half_a_threads_stack() {
    let rendering = std::thread::Builder::new().stack_size(1024 * 1024).spawn(|| {
        for bomb in bombs().iter().filter(|bomb| bomb.contains("{% macro f(")) {
            assert_eq!(render(bomb), Err(ChatError::TooMuch(Resource::Nesting)), "{bomb}");
        }
    });
    rendering.unwrap().join().unwrap();
}

#[test]
fn values_that_would_lead_back_to_themselves_are_written_as_names() {
    let template =
        "{% set ns = namespace() %}{% set ns.me = ns %}{% set ns.l = [ns] %}{{ ns.me.me.l }}{{ ns == ns.me }}";
    assert_eq!(render(template).unwrap(), "[<Namespace>]True");
}

#[test]
fn work_that_grows_with_the_square_ends() {
    let template = "{% for a in range(3000) %}{% for b in range(3000) %}{{ a * b }}{% endfor %}{% endfor %}";
    assert_eq!(render(template), Err(ChatError::TooMuch(Resource::Prompt)));
    let template = template.replace("{{ a * b }}", "{% set c = a * b %}");
    assert_eq!(render(&template), Err(ChatError::TooMuch(Resource::Steps)));
}
