//! The numbers of linux/netfilter/nf_tables.h, under their names there without the first part (`NFTA_TABLE_NAME`: `TABLE_NAME`).

#![allow(missing_docs, reason = "the header describes them")]

macro_rules! numbers {
    ($type:ty: $($name:ident = $value:expr),* $(,)?) => {
        $(pub(super) const $name: $type = $value;)*
    };
}

// Messages.
numbers! { u16:
    NEWTABLE = 0, GETTABLE = 1, DELTABLE = 2, NEWCHAIN = 3, NEWRULE = 6, GETRULE = 7, NEWSET = 9, NEWSETELEM = 12,
    TRACE = 17,
}

// Attributes of tables, chains, rules, sets, elements.
numbers! { u16:
    LIST_ELEM = 1, DATA_VALUE = 1, DATA_VERDICT = 2, VERDICT_CODE = 1, VERDICT_CHAIN = 2,
    TABLE_NAME = 1, TABLE_FLAGS = 2,
    CHAIN_TABLE = 1, CHAIN_NAME = 3, CHAIN_HOOK = 4, CHAIN_POLICY = 5, CHAIN_TYPE = 7,
    HOOK_HOOKNUM = 1, HOOK_PRIORITY = 2, HOOK_DEV = 3,
    RULE_TABLE = 1, RULE_CHAIN = 2, RULE_EXPRESSIONS = 4, RULE_USERDATA = 7, EXPR_NAME = 1, EXPR_DATA = 2,
    SET_TABLE = 1, SET_NAME = 2, SET_FLAGS = 3, SET_KEY_TYPE = 4, SET_KEY_LEN = 5, SET_ID = 10,
    SET_ELEM_LIST_TABLE = 1, SET_ELEM_LIST_SET = 2, SET_ELEM_LIST_ELEMENTS = 3, SET_ELEM_KEY = 1, SET_ELEM_FLAGS = 3,
    TRACE_TABLE = 1, TRACE_CHAIN = 2, TRACE_RULE_HANDLE = 3, TRACE_VERDICT = 5, TRACE_POLICY = 16,
}

// Attributes of expressions.
numbers! { u16:
    META_DREG = 1, META_KEY = 2, META_SREG = 3,
    CMP_SREG = 1, CMP_OP = 2, CMP_DATA = 3,
    RANGE_SREG = 1, RANGE_OP = 2, RANGE_FROM_DATA = 3, RANGE_TO_DATA = 4,
    PAYLOAD_DREG = 1, PAYLOAD_BASE = 2, PAYLOAD_OFFSET = 3, PAYLOAD_LEN = 4,
    BITWISE_SREG = 1, BITWISE_DREG = 2, BITWISE_LEN = 3, BITWISE_MASK = 4, BITWISE_XOR = 5,
    LOOKUP_SET = 1, LOOKUP_SREG = 2, LOOKUP_FLAGS = 5,
    CT_DREG = 1, CT_KEY = 2,
    FIB_DREG = 1, FIB_RESULT = 2, FIB_FLAGS = 3,
    IMMEDIATE_DREG = 1, IMMEDIATE_DATA = 2,
    COUNTER_BYTES = 1, COUNTER_PACKETS = 2,
    REJECT_TYPE = 1, REJECT_ICMP_CODE = 2,
    MASQ_FLAGS = 1,
    NAT_TYPE = 1, NAT_FAMILY = 2, NAT_REG_ADDR_MIN = 3, NAT_REG_PROTO_MIN = 5,
    RT_DREG = 1, RT_KEY = 2,
    BYTEORDER_SREG = 1, BYTEORDER_DREG = 2, BYTEORDER_OP = 3, BYTEORDER_LEN = 4, BYTEORDER_SIZE = 5,
    EXTHDR_TYPE = 2, EXTHDR_OFFSET = 3, EXTHDR_LEN = 4, EXTHDR_OP = 6, EXTHDR_SREG = 7,
}

// Values.
numbers! { u32:
    TABLE_DORMANT = 1, TABLE_OWNED = 2, SET_INTERVAL = 4, ELEM_INTERVAL_END = 1,
    REG_VERDICT = 0, REG_1 = 1, REG_2 = 2,
    META_PROTOCOL = 1, META_MARK = 3, META_IIFNAME = 6, META_OIFNAME = 7, META_IIFTYPE = 8, META_NFTRACE = 12,
    META_NFPROTO = 15, META_L4PROTO = 16,
    CMP_EQ = 0, CMP_NEQ = 1, CMP_LTE = 3, CMP_GTE = 5, RANGE_NEQ = 1, LOOKUP_INVERTED = 1,
    PAYLOAD_LINK = 0, PAYLOAD_NETWORK = 1, PAYLOAD_TRANSPORT = 2,
    CT_STATE = 0, CT_STATUS = 2, FIB_RESULT_OIF = 1, FIB_RESULT_OIFNAME = 2, FIB_RESULT_ADDRTYPE = 3,
    FIB_SADDR = 1, FIB_DADDR = 2, FIB_IIF = 8, FIB_PRESENT = 32,
    REJECT_ICMP = 0, REJECT_TCP_RESET = 1, REJECT_ICMPX = 2,
    NAT_SOURCE = 0, NAT_DESTINATION = 1, RT_TCPMSS = 3, BYTEORDER_HTON = 1, EXTHDR_TCP_OPTION = 1,
    // linux/netfilter/nf_nat.h: NF_NAT_RANGE_PROTO_RANDOM_FULLY.
    RANDOM_FULLY = 16,
    // linux/netfilter.h and nf_tables.h: verdicts, the negative ones as the kernel stores them.
    VERDICT_DROP = 0, VERDICT_ACCEPT = 1, VERDICT_JUMP = (-3i32).cast_unsigned(), VERDICT_GOTO = (-4i32).cast_unsigned(),
    VERDICT_RETURN = (-5i32).cast_unsigned(),
}
