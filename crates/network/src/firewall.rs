//! Other firewalls on the host. Every table judges a packet: what one accepts another may still drop, so where a
//! foreign chain drops forwarded packets our guests have no network until a rule is added *there*.

use std::path::Path;

use serde_json::Value;

use crate::address::Cidr;
use crate::instance::{ANY_VETH, InstanceId};
use crate::nft::{self, NftError};
use crate::setup::{Host, blocking};
use crate::{range, reclaim};

/// Whose chain drops forwarded packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firewall {
    /// Docker, which sets the policy of `FORWARD` to drop.
    Docker,
    /// ufw.
    Ufw,
    /// firewalld.
    Firewalld,
    /// Somebody else.
    Other,
}

/// A foreign chain that keeps guests from the Internet (`egress_blocked_by_host_firewall`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whose it is.
    pub firewall: Firewall,
    /// Its table, with the family: `ip filter`.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// A shell command, for root, that lets our guests through there.
    pub command: String,
}

/// By what a rule of another firewall can tell our guests.
#[derive(Debug)]
pub(crate) struct Guests {
    /// The host's side of their links, as nftables writes it.
    veths: String,
    /// Their addresses.
    range: Cidr,
}

impl Guests {
    /// The guests of one instance.
    pub(crate) fn of(instance: &InstanceId, range: Cidr) -> Self {
        Self { veths: instance.veths(), range }
    }

    /// Those of every instance.
    fn any() -> Self {
        Self { veths: ANY_VETH.to_owned(), range: range::ANY }
    }
}

/// Foreign chains that drop what the guests of this instance send; of any instance, where none is named because it is
/// yet to be made. Reads the ruleset of the calling thread's namespace; rules of legacy iptables are not seen.
pub async fn host_firewalls(instance: Option<&InstanceId>, wrenn_dir: &Path) -> Result<Vec<Finding>, NftError> {
    let host = reclaim::host()?;
    let guests = match instance {
        Some(instance) => {
            let (of, directory) = (instance.clone(), wrenn_dir.to_owned());
            Guests::of(instance, host.entrance.run_on_host(move || range::find(&of, &directory)).await?)
        }
        None => Guests::any(),
    };
    find(&host, &guests).await
}

pub(crate) async fn find(host: &Host, guests: &Guests) -> Result<Vec<Finding>, NftError> {
    let namespace = host.entrance.host().try_clone()?;
    let ruleset = blocking(move || nft::list(namespace)).await??;
    Ok(judge(&ruleset, guests))
}

/// A table: family and name.
type TableName<'a> = (&'a str, &'a str);

/// Goes by the chains and not by the rules: which packets a foreign rule means is more than a diagnosis can tell.
fn judge(ruleset: &Value, guests: &Guests) -> Vec<Finding> {
    let objects = || ruleset["nftables"].as_array().into_iter().flatten();
    let chains = || objects().filter_map(|object| object.get("chain"));
    let mut findings = Vec::new();
    for chain in chains().filter(|chain| chain["hook"] == "forward") {
        let Some(table @ (family, name)) = table_of(chain) else { continue };
        // firewalld accepts by policy and rejects in its last rule.
        let drops = chain["policy"] == "drop" || name == "firewalld";
        let sees_ipv4 = family == "ip" || family == "inet";
        let opened = || {
            objects()
                .filter_map(|object| object.get("rule"))
                .any(|rule| table_of(rule) == Some(table) && mentions(rule, guests))
        };
        if !drops || !sees_ipv4 || name.starts_with("wrenn_") || opened() {
            continue;
        }
        let has = |wanted: &str| chains().any(|chain| table_of(chain) == Some(table) && chain["name"] == wanted);
        let firewall = match () {
            () if name == "firewalld" => Firewall::Firewalld,
            () if has("DOCKER-USER") => Firewall::Docker,
            () if has("ufw-user-forward") => Firewall::Ufw,
            () => Firewall::Other,
        };
        let chain = chain["name"].as_str().unwrap_or_default();
        let command = command(firewall, table, chain, guests);
        findings.push(Finding { firewall, table: format!("{family} {name}"), chain: chain.to_owned(), command });
    }
    findings
}

fn table_of(object: &Value) -> Option<TableName<'_>> {
    Some((object["family"].as_str()?, object["table"].as_str()?))
}

/// Whether a rule is about these guests or about all of ours: somebody has followed our advice.
fn mentions(rule: &Value, guests: &Guests) -> bool {
    let text = rule["expr"].to_string();
    [guests, &Guests::any()].iter().any(|guests| {
        text.contains(&format!("\"{}\"", guests.veths)) || text.contains(&format!("\"{}\"", guests.range.network()))
    })
}

fn command(
    firewall: Firewall,
    (family, table): TableName<'_>,
    chain: &str,
    Guests { veths, range }: &Guests,
) -> String {
    // iptables writes its wildcard differently.
    let plus = veths.replace('*', "+");
    match firewall {
        Firewall::Docker => format!(
            "iptables -I DOCKER-USER -i {plus} -j ACCEPT && \
             iptables -I DOCKER-USER -o {plus} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        ),
        Firewall::Ufw => format!("ufw route allow from {range}"),
        Firewall::Firewalld => {
            format!("firewall-cmd --permanent --zone=trusted --add-source={range} && firewall-cmd --reload")
        }
        Firewall::Other => format!(
            "nft 'insert rule {family} {table} {chain} iifname \"{veths}\" accept' && \
             nft 'insert rule {family} {table} {chain} oifname \"{veths}\" ct state established,related accept'"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn forward(family: &str, table: &str, chain: &str, policy: &str) -> Value {
        json!({"chain": {"family": family, "table": table, "name": chain, "hook": "forward", "policy": policy}})
    }

    fn plain(table: &str, chain: &str) -> Value {
        json!({"chain": {"family": "ip", "table": table, "name": chain}})
    }

    fn rule(table: &str, interface: &str) -> Value {
        let matched = json!({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": interface}});
        json!({"rule": {"family": "ip", "table": table, "chain": "FORWARD", "expr": [matched, {"accept": null}]}})
    }

    #[test]
    fn whose_chain_is_in_the_way() {
        let instance: InstanceId = "abc".parse().unwrap();
        let guests = Guests::of(&instance, "240.1.0.0/17".parse().unwrap());
        let docker = || vec![forward("ip", "filter", "FORWARD", "drop"), plain("filter", "DOCKER-USER")];
        let cases = [
            (vec![], vec![]),
            (vec![forward("ip", "filter", "FORWARD", "accept")], vec![]),
            (vec![forward("ip6", "filter", "FORWARD", "drop")], vec![]),
            (vec![forward("inet", "wrenn_other", "forward", "drop")], vec![]),
            (docker(), vec![Firewall::Docker]),
            ([docker(), vec![rule("filter", "wvabc-*")]].concat(), vec![]),
            ([docker(), vec![rule("filter", "wv*")]].concat(), vec![]),
            ([docker(), vec![rule("filter", "wvab-*")]].concat(), vec![Firewall::Docker]),
            (
                vec![forward("ip", "filter", "FORWARD", "drop"), plain("filter", "ufw-user-forward")],
                vec![Firewall::Ufw],
            ),
            (vec![forward("inet", "firewalld", "filter_FORWARD", "accept")], vec![Firewall::Firewalld]),
            (vec![forward("inet", "mine", "f", "drop")], vec![Firewall::Other]),
        ];
        for (objects, expected) in cases {
            let findings = judge(&json!({"nftables": objects}), &guests);
            assert_eq!(findings.iter().map(|finding| finding.firewall).collect::<Vec<_>>(), expected, "{objects:?}");
        }
        assert_eq!(judge(&Value::Null, &guests), []);
    }

    #[test]
    fn before_there_is_an_instance_all_are_let_through() {
        let dropping = json!({"nftables": [forward("inet", "mine", "f", "drop")]});
        let findings = judge(&dropping, &Guests::any());
        assert_eq!(
            findings.iter().map(|finding| finding.command.as_str()).collect::<Vec<_>>(),
            ["nft 'insert rule inet mine f iifname \"wv*\" accept' && \
              nft 'insert rule inet mine f oifname \"wv*\" ct state established,related accept'"]
        );
    }
}
