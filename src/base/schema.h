/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Typed options: the run-time half of the QMP schema.
 *
 * src/qmp/schema/ *.json describes every type, command and event; scripts/schema-gen.py turns it into
 * "gen/schema.h" and gen/schema.c: C structs, enums and the descriptors below, which one table-driven parser
 * reads. Meson users add `schema_dep` to their dependencies.
 *
 * Naming of what is generated, for a schema type FooBar (snake case foo_bar), a member m-n, a command c-d:
 *   struct weir_q_foo_bar                 a struct; enum weir_q_foo_bar with values WEIR_Q_FOO_BAR_<VALUE>
 *   const struct weir_schema_type weir_schema_foo_bar      its descriptor
 *   .m_n  and, where the member is optional, bool .has_m_n; a member with a default holds it when absent
 *         A name that C or its headers use otherwise gets a '_': .errno_, .u.unix_
 *   struct weir_q_c_d_args, weir_schema_c_d_args           the arguments of command c-d (a command whose
 *                                         arguments are a named type uses that type)
 * and for every blockdev driver X (with '-' as '_'):
 *   struct weir_opts_X                    first member `struct weir_opts_node_common base`, then X's own options
 *   weir_schema_opts_X                    its descriptor: one parse checks and fills common and own options
 *   weir_schema_opts_find("X")            the descriptor by driver name; NULL for a driver the schema lacks
 * struct weir_opts_node_common: driver (a string), node_name, discard, detect_zeroes, cache.direct, cache.no_flush,
 * read_only, auto_read_only, force_share and their has_ flags.
 *
 * How a type looks in C: str `char *` (NULL when absent); bool, number `double`; int `int64_t`, size
 * `uint64_t`, intN/uintN likewise; a struct by value; an array `struct { T *items; size_t count; }`; an
 * alternate (BlockdevRef, StrOrNull) and `any`: `json_t *`, checked in full below but kept as JSON; a union:
 * `json_t *json` (the whole checked object), the base members, and `u.<branch>`. Whatever was parsed owns its
 * strings and references: weir_schema_free().
 *
 * A driver that the schema does not know (tests) may write its descriptor by hand: .base =
 * &weir_schema_opts_node_common, own members behind it.
 *
 * Everything here is plain memory work; any thread.
 */
#ifndef WEIR_BASE_SCHEMA_H
#define WEIR_BASE_SCHEMA_H

#include "base/error.h"
#include "base/macros.h"
#include <jansson.h>

/* Nesting of values below one parse call; deeper input is refused. */
#define WEIR_SCHEMA_DEPTH_MAX 64
/* The longest dotted name that an error text shows. */
#define WEIR_SCHEMA_PATH_MAX 512

enum weir_schema_kind {
    WEIR_SCHEMA_ANY,
    WEIR_SCHEMA_NULL,
    WEIR_SCHEMA_STRING,
    WEIR_SCHEMA_BOOL,
    WEIR_SCHEMA_NUMBER,
    WEIR_SCHEMA_INT,  /* signed: min..max */
    WEIR_SCHEMA_UINT, /* unsigned: 0..max; `size` takes suffixes in keyval input */
    WEIR_SCHEMA_ENUM,
    WEIR_SCHEMA_STRUCT,
    WEIR_SCHEMA_UNION,
    WEIR_SCHEMA_ALTERNATE,
    WEIR_SCHEMA_ARRAY,
};

/* Where the values come from: typed JSON, or keyval text, whose leaves are all strings and get converted. */
enum weir_schema_input { WEIR_SCHEMA_JSON, WEIR_SCHEMA_KEYVAL };

struct weir_schema_type;

/* No has_ flag. */
#define WEIR_SCHEMA_NO_HAS SIZE_MAX

struct weir_schema_member {
    const char *name;
    const struct weir_schema_type *type;
    bool optional;
    const char *preset; /* default as text, in keyval form; NULL: none */
    size_t offset;      /* in the C struct */
    size_t has_offset;  /* of bool has_X, or WEIR_SCHEMA_NO_HAS */
};

/* A branch that is checked but not stored (drivers parse their own options). */
#define WEIR_SCHEMA_NO_STORAGE SIZE_MAX

/* One branch of a union (by value of the discriminator) or of an alternate (by JSON kind). */
struct weir_schema_branch {
    int value;                           /* of the discriminator's enum; unused in alternates */
    const struct weir_schema_type *type; /* NULL: no members of its own */
    size_t offset;                       /* in the union's C struct, or WEIR_SCHEMA_NO_STORAGE */
};

struct weir_schema_type {
    const char *name; /* as in the reference manual */
    enum weir_schema_kind kind;
    size_t size; /* bytes of the C representation */
    /* INT, UINT */
    int64_t int_min;
    uint64_t int_max;
    bool suffixes; /* keyval text may end in k, M, G, T, P, E */
    /* ENUM */
    const char *const *values;
    unsigned value_count;
    /* STRUCT, UNION */
    const struct weir_schema_type *base; /* its members come first, at offset 0 */
    const struct weir_schema_member *members;
    unsigned member_count;
    /* UNION, ALTERNATE */
    const char *discriminator; /* a member of the union or its base, an enum */
    const struct weir_schema_branch *branches;
    unsigned branch_count;
    size_t json_offset; /* UNION: of `json_t *json` */
    /* ARRAY */
    const struct weir_schema_type *element;
};

/*
 * Parses @value (borrowed, unchanged) into the C struct at @ret_struct, which has @type->size bytes and need not
 * be initialised. On failure the struct holds nothing and the error names the member, dotted from the top:
 * "Parameter 'file.filename' is missing".
 */
int weir_schema_parse(const struct weir_schema_type *type, json_t *value, enum weir_schema_input input,
                      void *ret_struct, struct weir_error **err) weir_must_check;
/* As above, with @path (for example "options") in front of every name in error texts. */
int weir_schema_parse_at(const struct weir_schema_type *type, const char *path, json_t *value,
                         enum weir_schema_input input, void *ret_struct,
                         struct weir_error **err) weir_must_check;
/* Frees what a parsed struct owns and zeroes it. NULL is fine. */
void weir_schema_free(const struct weir_schema_type *type, void *parsed);

/* Checks only: the same verdict and error as a parse. */
int weir_schema_validate(const struct weir_schema_type *type, json_t *value,
                         struct weir_error **err) weir_must_check;
/*
 * Turns keyval input (string leaves) into the typed JSON object that says the same; *ret_value is a new
 * reference. So that what follows deals with JSON only.
 */
int weir_schema_normalize(const struct weir_schema_type *type, json_t *value, json_t **ret_value,
                          struct weir_error **err) weir_must_check;

/* "unmap" of WEIR_Q_BLOCKDEV_DISCARD_OPTIONS_UNMAP. @value must be one of the enum's. */
const char *weir_schema_enum_name(const struct weir_schema_type *type, int value);
/* The value of @name, or -1. */
int weir_schema_enum_find(const struct weir_schema_type *type, const char *name);

/* The builtin types. */
extern const struct weir_schema_type weir_schema_str, weir_schema_bool, weir_schema_number, weir_schema_int,
    weir_schema_int8, weir_schema_int16, weir_schema_int32, weir_schema_int64, weir_schema_uint8,
    weir_schema_uint16, weir_schema_uint32, weir_schema_uint64, weir_schema_size, weir_schema_any,
    weir_schema_null;

#endif
