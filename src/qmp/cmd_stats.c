/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP: statistics of nodes and exports.
 */
#include "export/export.h"
#include "gen/commands.h"
#include "graph/graph.h"
#include "qmp/cmd.h"
#include "qmp/stats_json.h"
#include "sys/sys.h"

static void set(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

json_t *weir_stats_json(const struct weir_stats *stats)
{
    /* ZERO counts as a write: that is how it looks to the storage, and to users of other servers. */
    static const struct {
        enum weir_op op;
        const char *operations, *bytes, *total, *failed, *invalid, *merged;
    } rows[] = {
        { WEIR_OP_READ, "rd_operations", "rd_bytes", "rd_total_time_ns", "failed_rd_operations",
          "invalid_rd_operations", "rd_merged" },
        { WEIR_OP_WRITE, "wr_operations", "wr_bytes", "wr_total_time_ns", "failed_wr_operations",
          "invalid_wr_operations", "wr_merged" },
        { WEIR_OP_DISCARD, "unmap_operations", "unmap_bytes", "unmap_total_time_ns",
          "failed_unmap_operations", "invalid_unmap_operations", "unmap_merged" },
        { WEIR_OP_FLUSH, "flush_operations", NULL, "flush_total_time_ns", "failed_flush_operations",
          "invalid_flush_operations", NULL },
    };
    json_t *object = json_object();

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(rows); i++) {
        struct weir_op_stats op = stats->op[rows[i].op];

        if (rows[i].op == WEIR_OP_WRITE) {
            const struct weir_op_stats *zero = &stats->op[WEIR_OP_ZERO];

            op.operations += zero->operations;
            op.bytes += zero->bytes;
            op.total_ns += zero->total_ns;
            op.failed += zero->failed;
        }
        set(object, rows[i].operations, op.operations);
        set(object, rows[i].total, op.total_ns);
        set(object, rows[i].failed, op.failed);
        set(object, rows[i].invalid, 0);
        if (rows[i].bytes)
            set(object, rows[i].bytes, op.bytes);
        if (rows[i].merged)
            set(object, rows[i].merged, op.merged);
    }
    set(object, "wr_highest_offset", stats->write_highest);
    if (stats->idle_since_ns)
        set(object, "idle_time_ns", (uint64_t)WEIR_MAX(weir_sys->clock_ns() - stats->idle_since_ns, 0));
    json_object_set_new(object, "account_invalid", json_true());
    json_object_set_new(object, "account_failed", json_true());
    json_object_set_new(object, "timed_stats", json_array());
    return object;
}

/* A node with its storage below it; the backing chain is left out, as every node has an entry of its own. */
static json_t *node_stats(struct weir_node *node)
{
    struct weir_edge *below = weir_node_primary(node);
    struct weir_stats stats;
    json_t *object;

    weir_node_stats(node, &stats);
    object = json_pack("{s:s, s:o}", "node-name", node->name, "stats", weir_stats_json(&stats));
    if (below)
        json_object_set_new(object, "parent", node_stats(below->node));
    return object;
}

weir_co_fn int qmp_query_blockstats(struct weir_qmp_context *ctx,
                                    const struct weir_q_query_blockstats_args *args, json_t **ret_value,
                                    struct weir_error **err)
{
    *ret_value = json_array();
    if (args->query_nodes) {
        for (struct weir_node *node = weir_graph_next(NULL); node; node = weir_graph_next(node))
            json_array_append_new(*ret_value, node_stats(node));
        return 0;
    }
    for (struct weir_export *export = weir_export_next(NULL); export; export = weir_export_next(export)) {
        struct weir_edge *edge = weir_export_edge(export);
        struct weir_stats stats;

        if (!edge)
            continue;
        weir_edge_stats(edge, &stats);
        json_array_append_new(*ret_value,
                              json_pack("{s:s, s:s, s:o}", "device", weir_export_id(export), "node-name",
                                        edge->node->name, "stats", weir_stats_json(&stats)));
    }
    return 0;
}
