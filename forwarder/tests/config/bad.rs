//! Mistakes, and the sentence that each must give.

/// What to put in place of what in `LEAST`, and the sentence it must give.
pub(crate) const BAD: &[(&str, &str, &str)] = &[
    // Unknown keys.
    ("node = 1", "nod = 1", "line 1: unknown key `nod`; hint: did you mean `node`?"),
    ("vip =", "VIP =", "line 5: unknown key `VIP` in [[service]]; hint: did you mean `vip`?"),
    ("[[service]]", "[[services]]", "line 4: unknown key `services`; hint: did you mean `service`?"),
    (
        "port = 5060",
        "port = 5060\nnode = 2",
        "line 7: unknown key `node` in [[service]]; hint: `node` belongs above the first section",
    ),
    ("node = 1", "node = 1\nport = 5060", "line 2: unknown key `port`; hint: `port` belongs in [[service]]"),
    (
        "port = 5060",
        "port = 5060\nsources = \"10.9.2.2:5060\"",
        "line 7: `sources` in [[service]] is \"10.9.2.2:5060\"; \
         hint: give the proxy's other sockets, such as [\"10.9.2.2:5060\"]",
    ),
    (
        "port = 5060",
        "port = 5060\nsources = [\"10.9.2.2\"]",
        "line 7: `sources` in [[service]] is \"10.9.2.2\"; \
         hint: give an address and a port such as \"10.9.2.2:7470\" or \"[2001:db8::2]:7470\"",
    ),
    (
        "port = 5060",
        "port = 5060\nsources = [\"0.0.0.0:5060\"]",
        "line 7: `sources` in [[service]] has 0.0.0.0, an unspecified address; \
         hint: give the proxy's other sockets, such as [\"10.9.2.2:5060\"]",
    ),
    (
        "port = 5060",
        "port = 5060\nsources = [\"192.0.2.10:5060\"]",
        "line 7: `sources` in [[service]] has 192.0.2.10:5060, a service; \
         hint: a service's own address and port claim in any case: remove it",
    ),
    (
        "port = 5060",
        "port = 5060\nsources = [\"10.9.2.2:5060\", \"10.9.2.2:5060\"]",
        "line 7: `sources` in [[service]] has 10.9.2.2:5060, which is there twice; hint: remove one",
    ),
    (
        "port = 5060",
        "port = 5060\nsources = [\"10.9.2.2:5060\"]\n[[service]]\nvip = \"192.0.2.10\"\nport = 5080\n\
         sources = [\"10.9.2.2:5060\"]",
        "line 11: `sources` in [[service]] has 10.9.2.2:5060, which is there twice; hint: remove one",
    ),
    (
        "port = 5060",
        "port = 5060\nprobe = { every = 1 }",
        "line 7: unknown key `every` in `probe`; hint: the nearest is `failures`; \
         the keys here are interval_ms, failures",
    ),
    ("[cluster]", "[timer]\nt1_ms = 1\n[cluster]", "line 7: unknown key `timer`; hint: did you mean `timers`?"),
    // Not TOML.
    (
        "node = 1",
        "node = ",
        "line 1: string values must be quoted, expected literal string; hint: the file is TOML, \
         see docs/configuration.md",
    ),
    (
        "node = 1",
        "node = 1\nnode = 2",
        "line 2: duplicate key; hint: the file is TOML, \
         see docs/configuration.md",
    ),
    // The top.
    ("node = 1\n", "", "`node` is missing; hint: add a line like `node = 1`"),
    ("node = 1", "node = 0", "line 1: `node` is 0; hint: give a whole number from 1 to 1023"),
    ("node = 1", "node = 1024", "line 1: `node` is 1024; hint: give a whole number from 1 to 1023"),
    ("node = 1", "node = -1", "line 1: `node` is -1; hint: give a whole number from 1 to 1023"),
    ("node = 1", "node = \"1\"", "line 1: `node` is \"1\"; hint: give a whole number from 1 to 1023"),
    ("node = 1", "node = 1.5", "line 1: `node` is 1.5; hint: give a whole number from 1 to 1023"),
    ("interfaces = [\"eth0\"]\n", "", "`interfaces` is missing; hint: add a line like `interfaces = [\"eth0\"]`"),
    ("[\"eth0\"]", "[]", "line 2: `interfaces` is empty; hint: list interfaces such as [\"eth0\"]"),
    ("[\"eth0\"]", "\"eth0\"", "line 2: `interfaces` is \"eth0\"; hint: list interfaces such as [\"eth0\"]"),
    ("[\"eth0\"]", "[1]", "line 2: `interfaces` is 1; hint: list interfaces such as [\"eth0\"]"),
    ("[\"eth0\"]", "[\"eth0\", \"eth0\"]", "line 2: `interfaces` has \"eth0\" twice; hint: remove one"),
    (
        "[\"eth0\"]",
        "[\"../eth0\"]",
        "line 2: `interfaces` has \"../eth0\", which names no interface; hint: `ip link` shows this host's interfaces",
    ),
    (
        "underlay = \"10.9.2.2\"",
        "underlay = \"10.9.2\"",
        "line 3: `underlay` is \"10.9.2\"; hint: give this node's own unicast address, such as \"10.9.2.2\"",
    ),
    (
        "underlay = \"10.9.2.2\"",
        "underlay = \"0.0.0.0\"",
        "line 3: `underlay` has 0.0.0.0, an unspecified address; \
         hint: give this node's own unicast address, such as \"10.9.2.2\"",
    ),
    (
        "underlay = \"10.9.2.2\"",
        "underlay = \"ff02::1\"",
        "line 3: `underlay` has ff02::1, a multicast address; \
         hint: give this node's own unicast address, such as \"10.9.2.2\"",
    ),
    (
        "underlay = \"10.9.2.2\"",
        "underlay = \"192.0.2.10\"",
        "line 3: `underlay` is 192.0.2.10, a service's vip; hint: give an address that only this node has",
    ),
    (
        "node = 1",
        "node = 1\nxdp_mode = \"fast\"",
        "line 2: `xdp_mode` is \"fast\"; hint: give one of \"auto\", \"native\", \"generic\"",
    ),
    ("node = 1", "node = 1\nclaims = 100", "line 2: `claims` is 100; hint: give a whole number from 1024 to 16777216"),
    (
        "node = 1",
        "node = 1\nclaims = 99999999999999999999",
        "line 2: `claims` is 99999999999999999999; hint: give a whole number from 1024 to 16777216",
    ),
    (
        "node = 1",
        "node = 1\nmetrics = \"127.0.0.1\"",
        "line 2: `metrics` is \"127.0.0.1\"; \
         hint: give an address and a port such as \"10.9.2.2:7470\" or \"[2001:db8::2]:7470\"",
    ),
    (
        "node = 1",
        "node = 1\nmetrics = \"127.0.0.1:0\"",
        "line 2: `metrics` is \"127.0.0.1:0\" with port 0; hint: give a port from 1 to 65535",
    ),
    ("node = 1", "node = 1\ncontrol = \"\"", "line 2: `control` is empty; hint: give a path as text, or leave it out"),
    // Services.
    (
        "[[service]]\nvip = \"192.0.2.10\"\nport = 5060\n",
        "",
        "no service is there; hint: add a section [[service]] with `vip` and `port`",
    ),
    ("[[service]]", "[service]", "line 4: `service` is a table; hint: write `[[service]]`"),
    (
        "vip = \"192.0.2.10\"\n",
        "",
        "line 4: `vip` in [[service]] is missing; hint: add a line like `vip = \"192.0.2.10\"`",
    ),
    (
        "\"192.0.2.10\"",
        "\"sip.example.org\"",
        "line 5: `vip` in [[service]] is \"sip.example.org\"; hint: give the anycast address, such as \"192.0.2.10\"",
    ),
    (
        "\"192.0.2.10\"",
        "\"255.255.255.255\"",
        "line 5: `vip` in [[service]] has 255.255.255.255, the broadcast address; \
         hint: give the anycast address, such as \"192.0.2.10\"",
    ),
    ("port = 5060", "port = 0", "line 6: `port` in [[service]] is 0; hint: give a whole number from 1 to 65535"),
    (
        "port = 5060",
        "port = 70000",
        "line 6: `port` in [[service]] is 70000; hint: give a whole number from 1 to 65535",
    ),
    (
        "port = 5060",
        "port = 5060\n[[service]]\nvip = \"::ffff:192.0.2.10\"\nport = 5060",
        "line 8: `vip` in [[service]] 192.0.2.10 with port 5060 is there twice; hint: remove one",
    ),
    (
        "port = 5060",
        "port = 5060\naffinity = \"dialog\"",
        "line 7: `affinity` in [[service]] is \"dialog\"; hint: give one of \"transaction\", \"call\"",
    ),
    (
        "port = 5060",
        "port = 5060\nprobe = { failures = 0 }",
        "line 7: `failures` in `probe` is 0; hint: give a whole number from 1 to 100",
    ),
    // The cluster.
    (
        "name = \"edge\"",
        "name = \"an edge\"",
        "line 8: `name` in [cluster] is \"an edge\"; \
         hint: use 1 to 64 letters, digits, dots, underscores and dashes",
    ),
    (
        "listen = \"10.9.2.2:7470\"\n",
        "",
        "line 7: `listen` in [cluster] is missing; hint: add a line like `listen = \"10.9.2.2:7470\"`",
    ),
    (
        "\"10.9.2.2:7470\"",
        "\"10.9.2.2:0\"",
        "line 9: `listen` in [cluster] is \"10.9.2.2:0\" with port 0; hint: give a port from 1 to 65535",
    ),
    (
        "\"10.9.2.2:7470\"",
        "\"10.9.2.2:6081\"",
        "line 9: `listen` in [cluster] has port 6081, the tunnel's; hint: take another port, such as 7470",
    ),
    (
        "\"10.9.2.2:7470\"",
        "\"[::]:7470\"",
        "line 9: `listen` in [cluster] has ::, an unspecified address; \
         hint: give the address that the peers reach, such as the underlay's",
    ),
    (
        "\"10.9.2.2:7470\"",
        "\"192.0.2.10:7470\"",
        "line 7: `cluster` listens on 192.0.2.10, a service's vip; hint: give an address that only this node has",
    ),
    (
        "seeds = [\"10.9.3.2:7470\"]\n",
        "",
        "line 7: `seeds` in [cluster] is missing; hint: list the other nodes' `listen` addresses, \
         such as [\"10.9.3.2:7470\"]; [] for a node that stands alone",
    ),
    (
        "[\"10.9.3.2:7470\"]",
        "[\"10.9.3.2:7470\", \"10.9.3.2:7470\"]",
        "line 10: `seeds` in [cluster] has 10.9.3.2:7470 twice; hint: remove one",
    ),
    (
        "[\"10.9.3.2:7470\"]",
        "[\"edge-2:7470\"]",
        "line 10: `seeds` in [cluster] is \"edge-2:7470\"; \
         hint: give an address and a port such as \"10.9.2.2:7470\" or \"[2001:db8::2]:7470\"",
    ),
    ("ca = \"ca.pem\"\n", "", "line 7: `ca` in [cluster] is missing; hint: add a line like `ca = \"ca.pem\"`"),
    (
        "key = ",
        "keep_up = 1024\nkey = ",
        "line 13: `keep_up` in [cluster] is 1024; hint: give a whole number from 0 to 1023",
    ),
    // Who is kept out.
    (
        "key = ",
        "deny = 7\nkey = ",
        "line 13: `deny` in [cluster] is 7; hint: list node ids from 1 to 1023 and SHA-256 \
         fingerprints of certificates, such as [7, \"AB:CD:…\"]",
    ),
    (
        "key = ",
        "deny = [0]\nkey = ",
        "line 13: `deny` in [cluster] has 0; hint: list node ids from 1 to 1023 and SHA-256 \
         fingerprints of certificates, such as [7, \"AB:CD:…\"]",
    ),
    (
        "key = ",
        "deny = [true]\nkey = ",
        "line 13: `deny` in [cluster] has true; hint: list node ids from 1 to 1023 and SHA-256 \
         fingerprints of certificates, such as [7, \"AB:CD:…\"]",
    ),
    (
        "key = ",
        "deny = [\"ab:cd\"]\nkey = ",
        "line 13: `deny` in [cluster] has \"ab:cd\"; hint: list node ids from 1 to 1023 and SHA-256 \
         fingerprints of certificates, such as [7, \"AB:CD:…\"]",
    ),
    (
        "key = ",
        "deny = [\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"]\nkey = ",
        "line 13: `deny` in [cluster] has \
         \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"; \
         hint: list node ids from 1 to 1023 and SHA-256 \
         fingerprints of certificates, such as [7, \"AB:CD:…\"]",
    ),
    (
        "key = ",
        "deny = [\"gggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggg\"]\nkey = ",
        "line 13: `deny` in [cluster] has \
         \"gggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggg\"; \
         hint: list node ids from 1 to 1023 and SHA-256 \
         fingerprints of certificates, such as [7, \"AB:CD:…\"]",
    ),
    ("key = ", "deny = [3, 1]\nkey = ", "line 7: `cluster` denies node 1, which is this one; hint: correct `deny`"),
    // Timers and hooks.
    (
        "[cluster]",
        "[hooks]\ntimeout_s = 0\n[cluster]",
        "line 8: `timeout_s` in [hooks] is 0; hint: give a whole number from 1 to 600",
    ),
    (
        "[cluster]",
        "[hooks]\ntimeout = 5\n[cluster]",
        "line 8: unknown key `timeout` in [hooks]; hint: did you mean `timeout_s`?",
    ),
    (
        "[cluster]",
        "[timers]\ntimer_c_s = 0\n[cluster]",
        "line 8: `timer_c_s` in [timers] is 0; hint: give a whole number from 1 to 86400",
    ),
    (
        "[cluster]",
        "[forward]\nkey_packets = -1\n[cluster]",
        "line 8: `key_packets` in [forward] is -1; hint: give a whole number from 0 to 1000000",
    ),
    ("[cluster]", "[hooks]\non_state = 1\n[cluster]", "line 8: `on_state` in [hooks] is 1; hint: give a path as text"),
];
