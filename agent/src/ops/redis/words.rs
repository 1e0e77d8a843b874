//! What of a client's command may be shown: its name, the subcommand where it has some, and the key where
//! that comes first. All else may be a value, a script or a password.

/// Commands whose first argument is a key, or a pattern of keys.
const KEYED: &str = "\
    APPEND BITCOUNT BITFIELD BITFIELD_RO BITPOS BLMOVE BLPOP BRPOP BRPOPLPUSH BZPOPMAX BZPOPMIN \
    COPY DECR DECRBY DEL DUMP EXISTS EXPIRE EXPIREAT EXPIRETIME GEOADD GEODIST GEOHASH GEOPOS \
    GEORADIUS GEORADIUSBYMEMBER GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GEOSEARCHSTORE GET \
    GETBIT GETDEL GETEX GETRANGE GETSET HDEL HEXISTS HEXPIRE HEXPIREAT HEXPIRETIME HGET HGETALL \
    HGETDEL HGETEX HINCRBY HINCRBYFLOAT HKEYS HLEN HMGET HMSET HPERSIST HPEXPIRE HPEXPIREAT \
    HPEXPIRETIME HPTTL HRANDFIELD HSCAN HSET HSETEX HSETNX HSTRLEN HTTL HVALS INCR INCRBY \
    INCRBYFLOAT KEYS LCS LINDEX LINSERT LLEN LMOVE LPOP LPOS LPUSH LPUSHX LRANGE LREM LSET LTRIM \
    MGET MOVE MSET MSETNX PERSIST PEXPIRE PEXPIREAT PEXPIRETIME PFADD PFCOUNT PFMERGE PSETEX \
    PTTL RENAME RENAMENX RESTORE RPOP RPOPLPUSH RPUSH RPUSHX SADD SCARD SDIFF SDIFFSTORE SET \
    SETBIT SETEX SETNX SETRANGE SINTER SINTERSTORE SISMEMBER SMEMBERS SMISMEMBER SMOVE SORT \
    SORT_RO SPOP SRANDMEMBER SREM SSCAN STRLEN SUBSTR SUNION SUNIONSTORE TOUCH TTL TYPE UNLINK \
    WATCH XACK XADD XAUTOCLAIM XCLAIM XDEL XLEN XPENDING XRANGE XREVRANGE XSETID XTRIM ZADD \
    ZCARD ZCOUNT ZDIFFSTORE ZINCRBY ZINTERSTORE ZLEXCOUNT ZMSCORE ZPOPMAX ZPOPMIN ZRANDMEMBER \
    ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANGESTORE ZRANK ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK \
    ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE ZUNIONSTORE";

/// Commands whose first argument only says which of several they are.
const DIVIDED: &str = "\
    ACL CLIENT CLUSTER COMMAND CONFIG FUNCTION LATENCY MEMORY MODULE OBJECT PUBSUB SCRIPT \
    SENTINEL SLOWLOG XGROUP XINFO";

/// A command that was sent, as far as it may be shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Its name, with the subcommand.
    pub name: String,
    /// Its key.
    pub key: Option<String>,
}

/// What may be shown of a command, from its words.
pub(super) fn told(mut words: impl Iterator<Item = String>) -> Option<Told> {
    let among = |list: &str, name: &str| list.split_ascii_whitespace().any(|known| known == name);
    let mut name: String = words.next()?.to_ascii_uppercase().chars().take(40).collect();
    if among(KEYED, &name) {
        return Some(Told { name, key: words.next() });
    }
    if among(DIVIDED, &name)
        && let Some(sub) = words.next()
        // Anything else would be no subcommand.
        && sub.len() <= 20
        && sub.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-')
    {
        name = format!("{name} {}", sub.to_ascii_uppercase());
    }
    Some(Told { name, key: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str) -> (String, Option<String>) {
        let told = told(line.split(' ').map(str::to_owned)).expect("words");
        (told.name, told.key)
    }

    #[test]
    fn only_keys_are_shown_of_what_comes_after_a_commands_name() {
        for (line, name, key) in [
            ("get user:1", "GET", Some("user:1")),
            ("SET user:1 secret", "SET", Some("user:1")),
            ("zrevrange scores 0 -1", "ZREVRANGE", Some("scores")),
            ("keys session:*", "KEYS", Some("session:*")),
            ("echo secret", "ECHO", None),
            ("AUTH secret", "AUTH", None),
            ("hello 3 auth user secret", "HELLO", None),
            ("eval return-secret 0", "EVAL", None),
            ("EVALSHA sha 1 user:1 secret", "EVALSHA", None),
            ("eval_ro secret 0", "EVAL_RO", None),
            ("fcall name 0 secret", "FCALL", None),
            ("migrate host 6379 key 0 100 AUTH secret", "MIGRATE", None),
            ("publish channel secret", "PUBLISH", None),
            ("json.set doc $ secret", "JSON.SET", None),
            ("script load secret", "SCRIPT LOAD", None),
            ("acl setuser alice >secret", "ACL SETUSER", None),
            ("config set requirepass secret", "CONFIG SET", None),
            ("client >secret", "CLIENT", None),
        ] {
            assert_eq!(shown(line), (name.to_owned(), key.map(str::to_owned)), "{line}");
        }
        assert_eq!(told(std::iter::empty()), None);
    }
}
