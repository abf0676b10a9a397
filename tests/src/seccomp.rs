//! A seccomp profile as container runtimes read it, made the filter of a process. It takes what the profile
//! of `deploy/` uses of that format and refuses what it does not know: a condition that was left out would
//! let through what is meant to be refused.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use seccompiler::{BpfProgram, TargetArch, apply_filter, compile_from_json};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: String,
    default_errno_ret: u32,
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Vec<Condition>,
    #[serde(default, rename = "comment")]
    _comment: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

impl Condition {
    fn translated(&self) -> Result<Value> {
        let (op, value) = match self.op.as_str() {
            "SCMP_CMP_EQ" => (json!("eq"), self.value),
            "SCMP_CMP_MASKED_EQ" => (json!({ "masked_eq": self.value }), self.value_two),
            other => bail!("no condition {other} is known here"),
        };
        Ok(json!({ "index": self.index, "type": "dword", "op": op, "val": value }))
    }
}

/// The filters of `profile`, which are to be applied in this order: what refuses a call by an errno of its own
/// lets everything else through, the next filter's installation, too.
fn filters(profile: &str) -> Result<Vec<BpfProgram>> {
    let profile: Profile = serde_json::from_str(profile).context("not a profile")?;
    ensure!(
        profile.default_action == "SCMP_ACT_ERRNO",
        "what is not named must be refused"
    );
    let mut named = Vec::new();
    let mut refused: BTreeMap<u32, Vec<Value>> = BTreeMap::new();
    for rule in &profile.syscalls {
        let args = rule.args.iter().map(Condition::translated);
        let args = args.collect::<Result<Vec<_>>>()?;
        for name in &rule.names {
            let call = if args.is_empty() {
                json!({ "syscall": name })
            } else {
                json!({ "syscall": name, "args": args })
            };
            if rule.action == "SCMP_ACT_ERRNO" {
                let errno = rule.errno_ret.context("a refusal without an errno")?;
                refused.entry(errno).or_default().push(call.clone());
            } else {
                ensure!(
                    rule.action == "SCMP_ACT_ALLOW",
                    "{} is not known",
                    rule.action
                );
            }
            named.push(call);
        }
    }
    let default = json!({ "errno": profile.default_errno_ret });
    let mut filters = Vec::new();
    for (errno, calls) in refused {
        let refuse = json!({ "errno": errno });
        filters.push(compiled(&json!("allow"), &refuse, &calls)?);
    }
    filters.push(compiled(&default, &json!("allow"), &named)?);
    Ok(filters)
}

fn compiled(mismatch: &Value, matches: &Value, calls: &[Value]) -> Result<BpfProgram> {
    let filter = json!({ "main": {
        "mismatch_action": mismatch, "match_action": matches, "filter": calls,
    } });
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut programs = compile_from_json(filter.to_string().as_bytes(), arch)?;
    programs.remove("main").context("no filter")
}

/// Holds this process, and all that come of it, to `profile` from now on.
pub fn apply(profile: &str) -> Result<()> {
    for filter in filters(profile)? {
        apply_filter(&filter)?;
    }
    Ok(())
}
