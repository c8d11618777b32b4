//! Every rotation decision as a pure function: Observed -> Plan.
