//! A container that may do what it likes on its device (CAP_NET_RAW and more): its neighbours notice nothing.
