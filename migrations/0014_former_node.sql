-- Every view and table of the surface may be read by whoever may use the schema.
GRANT SELECT ON crdt.former_node TO PUBLIC;
