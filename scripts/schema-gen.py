#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Turns src/qmp/schema/*.json into C, introspection and the reference manual.

usage: schema-gen.py OUTDIR FILE.json...      writes schema.h schema.c commands.h commands.c introspect.c
                                              qmp-reference.md into OUTDIR
       schema-gen.py --tests FILE.json...     prints "definition.member test" for the lint

A file is an array of definitions. One key says what it defines: enum (values: {name: doc}), struct (members),
union (base: members or a struct's name; discriminator; branches: {value: struct}), alternate (branches),
command (args or boxed, returns, features, in-monitor), event (data). A member is {type, optional, default, doc,
test}; "[T]" is an array of T. Every member names the test that shows its effect, or its definition does so for
all of them. "opts": true on a union makes one C struct of base and own members for each branch.
The C side of all this is explained in src/base/schema.h.
"""
import json
import os
import re
import sys

INTS = {'int': 'int64_t', 'int8': 'int8_t', 'int16': 'int16_t', 'int32': 'int32_t', 'int64': 'int64_t',
        'uint8': 'uint8_t', 'uint16': 'uint16_t', 'uint32': 'uint32_t', 'uint64': 'uint64_t', 'size': 'uint64_t'}
BUILTINS = dict(INTS, str='char *', bool='bool', number='double', any='json_t *', null='json_t *')
JSON_KIND = {'str': 'string', 'bool': 'boolean', 'number': 'number', 'any': 'value', 'null': 'null', 'int': 'int'}
KINDS = ('enum', 'struct', 'union', 'alternate', 'command', 'event')
ROOTS = ('NbdServerOptions', 'ChardevOptions', 'MonitorOptions')
RESERVED = {'unix', 'linux', 'errno', 'default', 'register', 'static', 'auto', 'int', 'signed', 'stdin', 'stdout'}
PREFIX = '/* SPDX-License-Identifier: BSD-2-Clause */\n/* Made by scripts/schema-gen.py from src/qmp/schema. */\n'


class SchemaError(Exception):
    """A fault in the schema text."""


def snake(name):
    """FooBar, foo-bar and FOO_BAR become foo_bar."""
    if name.isupper() or '_' in name:
        return name.lower().replace('-', '_')
    text = re.sub(r'([a-z0-9])([A-Z])', r'\1_\2', name)
    text = re.sub(r'([A-Z]+)([A-Z][a-z])', r'\1_\2', text)
    return text.lower().replace('-', '_')


def field_name(name):
    """The C name of a member; words that C or its headers use otherwise get a '_' behind them."""
    name = snake(name)
    return name + '_' if name in RESERVED else name


def quoted(text):
    return json.dumps(text)


def element_of(type_name):
    """T of "[T]", or None."""
    return type_name[1:-1] if type_name.startswith('[') else None


class Definition:
    """One entry of the schema. kind, name, doc and test; for objects: own members, base, branches."""

    def __init__(self, raw, where):
        kinds = [k for k in KINDS if k in raw]
        if len(kinds) != 1:
            raise SchemaError(f'{where}: one of {KINDS} expected in {raw}')
        self.kind = kinds[0]
        self.name = raw[self.kind]
        self.raw = raw
        self.doc = raw.get('doc')
        self.test = raw.get('test')
        self.c = raw.get('c')
        if not self.doc:
            raise SchemaError(f'{where}: {self.name} lacks doc')
        self.base = raw.get('base')
        self.members = raw.get({'command': 'args', 'event': 'data'}.get(self.kind, 'members')) or {}
        self.branches = raw.get('branches', {})
        self.values = raw.get('values', {})
        self.discriminator = raw.get('discriminator')
        self.opts = raw.get('opts', False)
        for name, member in self.members.items():
            self.check_member(name, member, where)

    def check_member(self, name, member, where):
        surplus = set(member) - {'type', 'optional', 'default', 'doc', 'test'}
        if surplus:
            raise SchemaError(f'{where}: {self.name}.{name}: unknown {sorted(surplus)}')
        if 'type' not in member or 'doc' not in member:
            raise SchemaError(f'{where}: {self.name}.{name} lacks type or doc')
        if not (member.get('test') or self.test):
            raise SchemaError(f'{where}: {self.name}.{name} names no test')
        if 'default' in member and not member.get('optional'):
            raise SchemaError(f'{where}: {self.name}.{name} has a default but is not optional')


class Schema:
    """All definitions, by name, in order; and which of them need a C struct."""

    def __init__(self, files):
        self.types, self.commands, self.events = {}, {}, {}
        for path in files:
            with open(path, encoding='utf-8') as stream:
                entries = json.load(stream)
            for raw in entries:
                self.add(Definition(raw, os.path.basename(path)))
        self.check()
        self.with_struct = set()
        for root in ROOTS:
            self.need_struct(root)
        for command in self.commands.values():
            self.need_struct(command.raw.get('boxed') or command.name + '-args')

    def add(self, definition):
        if definition.kind == 'union' and isinstance(definition.base, dict):
            base = Definition({'struct': definition.name + 'Base', 'doc': definition.doc, 'test': definition.test,
                               'members': definition.base}, definition.name)
            base.implicit = True
            self.insert(self.types, base)
            definition.base = base.name
        if definition.kind == 'command':
            self.insert(self.commands, definition)
            if 'boxed' not in definition.raw:
                self.insert(self.types, self.implicit(definition, '-args'))
        elif definition.kind == 'event':
            self.insert(self.events, definition)
            self.insert(self.types, self.implicit(definition, '-data'))
        else:
            self.insert(self.types, definition)

    @staticmethod
    def implicit(owner, suffix):
        result = Definition({'struct': owner.name + suffix, 'doc': owner.doc, 'test': owner.test,
                             'members': owner.members}, owner.name)
        result.implicit = True
        return result

    @staticmethod
    def insert(table, definition):
        if definition.name in table:
            raise SchemaError(f'{definition.name} is defined twice')
        table[definition.name] = definition

    def check_type(self, name, where):
        inner = element_of(name) or name
        if inner not in BUILTINS and inner not in self.types:
            raise SchemaError(f'{where}: no type {name}')

    def check(self):
        for definition in self.types.values():
            for name, member in definition.members.items():
                self.check_type(member['type'], f'{definition.name}.{name}')
            for value, branch in definition.branches.items():
                self.check_type(branch, f'{definition.name}: {value}')
            if definition.kind == 'union':
                tag = self.all_members(definition)[definition.discriminator]
                surplus = set(definition.branches) - set(self.types[tag['type']].values)
                if surplus:
                    raise SchemaError(f'{definition.name}: no values {surplus}')
        for command in self.commands.values():
            for key in ('boxed', 'returns'):
                if key in command.raw:
                    self.check_type(command.raw[key], command.name)

    def all_members(self, definition):
        """Members of the base, then its own."""
        result = {}
        if definition.base:
            result.update(self.all_members(self.types[definition.base]))
        result.update(definition.members)
        return result

    def need_struct(self, name):
        inner = element_of(name) or name
        if inner in BUILTINS or inner in self.with_struct:
            return
        definition = self.types[inner]
        if definition.kind in ('enum', 'alternate'):
            return
        self.with_struct.add(inner)
        self.need_members(definition)
        for branch in definition.branches.values():
            if definition.opts:
                self.need_members(self.types[branch])
            else:
                self.need_struct(branch)
        if definition.opts:
            self.need_struct(definition.base)

    def need_members(self, definition):
        for member in self.all_members(definition).values():
            self.need_struct(member['type'])

    def own_view(self, definition):
        """Members as the definition's own C struct has them: an opts union's base has its tag as a string, since
        drivers that the schema does not know (tests) share that base."""
        members = dict(self.all_members(definition))
        for union in self.unions_with_opts():
            if union.base == definition.name:
                members[union.discriminator] = dict(members[union.discriminator], type='str')
        return members

    def arguments(self, command):
        return command.raw.get('boxed') or command.name + '-args'

    def unions_with_opts(self):
        return [d for d in self.types.values() if d.opts]


# ---- C header ----

class Header:
    """gen/schema.h: enums, then structs in an order that C accepts."""

    def __init__(self, schema):
        self.schema = schema
        self.out = []
        self.done = set()

    def c_type(self, name):
        if name in BUILTINS:
            return BUILTINS[name]
        definition = self.schema.types[name]
        if definition.kind == 'enum':
            return f'enum weir_q_{snake(name)}'
        if definition.kind == 'alternate':
            return 'json_t *'
        return struct_name(definition)

    def field(self, name, member):
        c_name = field_name(name)
        lines = []
        if member.get('optional'):
            lines.append(f'    bool has_{snake(name)};')
        element = element_of(member['type'])
        doc = member['doc'].replace('*/', '* /')
        if element:
            item = self.c_type(element)
            gap = '' if item.endswith('*') else ' '
            lines.append(f'    struct {{ {item}{gap}*items; size_t count; }} {c_name}; /* {doc} */')
        else:
            item = self.c_type(member['type'])
            gap = '' if item.endswith('*') else ' '
            lines.append(f'    {item}{gap}{c_name}; /* {doc} */')
        return lines

    def enum(self, definition):
        upper = 'WEIR_Q_' + snake(definition.name).upper()
        self.out.append(f'/* {definition.doc} */')
        self.out.append(f'enum weir_q_{snake(definition.name)} {{')
        for value, doc in definition.values.items():
            self.out.append(f'    {upper}_{snake(value).upper()}, /* {doc} */')
        self.out.append('};')
        self.out.append(f'#define {upper}_COUNT {len(definition.values)}')

    def struct(self, name):
        definition = self.schema.types[name]
        if name in self.done:
            return
        self.done.add(name)
        members = self.schema.own_view(definition)
        for member in members.values():
            self.dependency(member['type'])
        if not definition.opts:
            for branch in definition.branches.values():
                self.dependency(branch)
        self.out.append(f'/* {definition.doc} */')
        self.out.append(f'{struct_name(definition)} {{')
        for member_name, member in members.items():
            self.out.extend(self.field(member_name, member))
        if definition.kind == 'union':
            self.out.append('    json_t *json; /* the whole object, checked */')
            self.branches(definition)
        elif not members:
            self.out.append('    char none; /* C has no empty structs */')
        self.out.append('};')

    def branches(self, definition):
        if definition.opts or not definition.branches:
            return
        self.out.append('    union {')
        for value, branch in definition.branches.items():
            self.out.append(f'        {struct_name(self.schema.types[branch])} {field_name(value)};')
        self.out.append('    } u;')

    def dependency(self, name):
        inner = element_of(name) or name
        if inner in self.schema.with_struct:
            self.struct(inner)

    def opts(self, definition):
        base = self.schema.types[definition.base]
        common = f'weir_opts_{base.c}'
        for value, branch in definition.branches.items():
            own = self.schema.types[branch]
            self.out.append(f'/* {own.doc} */')
            self.out.append(f'struct weir_opts_{snake(value)} {{')
            self.out.append(f'    struct {common} base;')
            for name, member in self.schema.all_members(own).items():
                self.out.extend(self.field(name, member))
            self.out.append('};')
        self.out.append('')
        self.out.append(f'extern const struct weir_schema_type weir_schema_opts_{base.c};')
        for value in definition.branches:
            self.out.append(f'extern const struct weir_schema_type weir_schema_opts_{snake(value)};')
        self.out.append('/* The options descriptor of a driver, or NULL. */')
        self.out.append('const struct weir_schema_type *weir_schema_opts_find(const char *driver);')

    def text(self):
        types = self.schema.types.values()
        self.out += [PREFIX, '#ifndef WEIR_GEN_SCHEMA_H', '#define WEIR_GEN_SCHEMA_H', '', '#include "base/schema.h"',
                     '']
        for definition in types:
            if definition.kind == 'enum':
                self.enum(definition)
        for definition in types:
            if definition.name in self.schema.with_struct:
                self.struct(definition.name)
        for definition in types:
            if not (definition.c and definition.name in self.schema.with_struct):
                self.out.append(f'extern const struct weir_schema_type weir_schema_{snake(definition.name)};')
        for definition in self.schema.unions_with_opts():
            self.opts(definition)
        self.out += [
            '', '/* An event that this daemon emits. */', 'struct weir_schema_event {', '    const char *name;',
            '    const struct weir_schema_type *data;', '};',
            'extern const struct weir_schema_event weir_schema_events[];',
            f'#define WEIR_SCHEMA_EVENT_COUNT {len(self.schema.events)}',
            'extern const char weir_schema_introspection[]; /* query-qmp-schema\'s answer, as JSON text */',
            '', '#endif', '']
        return '\n'.join(self.out)


def struct_name(definition):
    if definition.c:
        return f'struct weir_opts_{definition.c}'
    return f'struct weir_q_{snake(definition.name)}'


def descriptor(name, schema):
    """The C name of a type's descriptor."""
    if name in schema.types and schema.types[name].c:
        return f'weir_schema_opts_{schema.types[name].c}'
    return f'weir_schema_{snake(name)}'


# ---- descriptors ----

class Source:
    """gen/schema.c: the tables."""

    def __init__(self, schema, header):
        self.schema = schema
        self.header = header
        self.out = []
        self.arrays = {}

    def type_ref(self, name):
        element = element_of(name)
        if not element:
            return f'&{descriptor(name, self.schema)}'
        array = f'array_of_{snake(element)}'
        if name not in self.arrays:
            self.arrays[name] = array
            self.out.append(f'static const struct weir_schema_type {array} = {{')
            self.out.append(f'    .name = {quoted(name)}, .kind = WEIR_SCHEMA_ARRAY, .size = 2 * sizeof(void *),')
            self.out.append(f'    .element = &{descriptor(element, self.schema)} }};')
        return f'&{array}'

    def member(self, name, member, struct):
        optional = 'true' if member.get('optional') else 'false'
        preset = quoted(str(member['default'])) if 'default' in member else 'NULL'
        offset, has = '0', 'WEIR_SCHEMA_NO_HAS'
        if struct:
            offset = f'offsetof({struct}, {field_name(name)})'
            if member.get('optional'):
                has = f'offsetof({struct}, has_{snake(name)})'
        return (f'    {{ {quoted(name)}, {self.type_ref(member["type"])}, {optional}, {preset}, {offset}, {has} }},')

    def members(self, label, members, struct):
        rows = [self.member(name, member, struct) for name, member in members.items()]
        if rows:
            self.out.append(f'static const struct weir_schema_member {label}[] = {{')
            self.out.extend(rows)
            self.out.append('};')
        return len(rows)

    def enum(self, definition):
        label = snake(definition.name)
        values = ', '.join(quoted(v) for v in definition.values)
        self.out.append(f'static const char *const {label}_values[] = {{ {values} }};')
        self.out.append(f'const struct weir_schema_type weir_schema_{label} = {{')
        self.out.append(f'    .name = {quoted(definition.name)}, .kind = WEIR_SCHEMA_ENUM,')
        self.out.append(f'    .size = sizeof(enum weir_q_{label}), .values = {label}_values,')
        self.out.append(f'    .value_count = {len(definition.values)} }};')

    def alternate(self, definition):
        label = snake(definition.name)
        self.out.append(f'static const struct weir_schema_branch {label}_branches[] = {{')
        for branch in definition.branches.values():
            self.out.append(f'    {{ 0, {self.type_ref(branch)}, 0 }},')
        self.out.append('};')
        self.out.append(f'const struct weir_schema_type weir_schema_{label} = {{')
        self.out.append(f'    .name = {quoted(definition.name)}, .kind = WEIR_SCHEMA_ALTERNATE,')
        self.out.append(f'    .size = sizeof(json_t *), .branches = {label}_branches,')
        self.out.append(f'    .branch_count = {len(definition.branches)} }};')

    def object(self, definition):
        name = definition.name
        struct = struct_name(definition) if name in self.schema.with_struct else None
        self.emit_object(descriptor(name, self.schema), definition, self.schema.own_view(definition), struct)

    def emit_object(self, symbol, definition, members, struct, base=None):
        """@members become the descriptor's own; the base is spelled out in them unless @base is given."""
        label = symbol.removeprefix('weir_schema_')
        count = self.members(f'{label}_members', members, struct)
        branches = definition.kind == 'union' and definition.branches
        if branches:
            self.branches(label, definition, struct)
        kind = 'UNION' if definition.kind == 'union' else 'STRUCT'
        self.out.append(f'const struct weir_schema_type {symbol} = {{')
        self.out.append(f'    .name = {quoted(definition.name)}, .kind = WEIR_SCHEMA_{kind},')
        self.out.append(f'    .size = {f"sizeof({struct})" if struct else 0},')
        if base:
            self.out.append(f'    .base = &{base},')
        if count:
            self.out.append(f'    .members = {label}_members, .member_count = {count},')
        if definition.kind == 'union':
            self.out.append(f'    .discriminator = {quoted(definition.discriminator)},')
            self.out.append(f'    .json_offset = {f"offsetof({struct}, json)" if struct else 0},')
        if branches:
            self.out.append(f'    .branches = {label}_branches, .branch_count = {len(definition.branches)},')
        self.out.append('};')

    def branches(self, label, definition, struct):
        tag = self.schema.all_members(definition)[definition.discriminator]['type']
        self.out.append(f'static const struct weir_schema_branch {label}_branches[] = {{')
        for value, branch in definition.branches.items():
            offset = 'WEIR_SCHEMA_NO_STORAGE'
            if struct and not definition.opts:
                offset = f'offsetof({struct}, u.{field_name(value)})'
            self.out.append(f'    {{ {enum_value(tag, value)}, {self.type_ref(branch)}, {offset} }},')
        self.out.append('};')

    def opts(self, definition):
        base = self.schema.types[definition.base]
        for value, branch in definition.branches.items():
            own = self.schema.types[branch]
            symbol = f'weir_schema_opts_{snake(value)}'
            self.emit_object(symbol, own, self.schema.all_members(own), f'struct weir_opts_{snake(value)}',
                             base=f'weir_schema_opts_{base.c}')
        self.out.append('const struct weir_schema_type *weir_schema_opts_find(const char *driver)')
        self.out.append('{')
        self.out.append('    static const struct { const char *driver; const struct weir_schema_type *type; }')
        self.out.append('        all[] = {')
        for value in definition.branches:
            self.out.append(f'        {{ {quoted(value)}, &weir_schema_opts_{snake(value)} }},')
        self.out.append('    };')
        self.out.append('    for (size_t i = 0; i < WEIR_ARRAY_SIZE(all); i++)')
        self.out.append('        if (!strcmp(all[i].driver, driver))')
        self.out.append('            return all[i].type;')
        self.out.append('    return NULL;')
        self.out.append('}')

    def text(self):
        self.out += [PREFIX, '#include "gen/schema.h"', '#include <string.h>', '']
        for definition in self.schema.types.values():
            if definition.kind == 'enum':
                self.enum(definition)
            elif definition.kind == 'alternate':
                self.alternate(definition)
            else:
                self.object(definition)
        for definition in self.schema.unions_with_opts():
            self.opts(definition)
        self.out.append(f'const struct weir_schema_event weir_schema_events[WEIR_SCHEMA_EVENT_COUNT] = {{')
        for name in self.schema.events:
            self.out.append(f'    {{ {quoted(name)}, &{descriptor(name + "-data", self.schema)} }},')
        self.out += ['};', '']
        return '\n'.join(self.out)


def enum_value(enum, value):
    return f'WEIR_Q_{snake(enum).upper()}_{snake(value).upper()}'


# ---- commands ----

def commands_header(schema):
    out = [PREFIX, '#ifndef WEIR_GEN_COMMANDS_H', '#define WEIR_GEN_COMMANDS_H', '', '#include "gen/schema.h"',
           '#include "qmp/dispatch.h"', '',
           '/* One handler for each command; see struct weir_qmp_command for what it owes its caller. */']
    for command in schema.commands.values():
        if command.raw.get('in-monitor'):
            continue
        out.append(handler(schema, command) + ' weir_co_fn;')
    out += ['', 'extern const struct weir_qmp_commands weir_qmp_commands;', '', '#endif', '']
    return '\n'.join(out)


def handler(schema, command):
    struct = struct_name(schema.types[schema.arguments(command)])
    return (f'int qmp_{snake(command.name)}(struct weir_qmp_context *ctx, const {struct} *args,\n'
            '    json_t **ret_value, struct weir_error **err)')


def commands_source(schema):
    out = [PREFIX, '#include "gen/commands.h"', '']
    for command in schema.commands.values():
        if command.raw.get('in-monitor'):
            continue
        label = snake(command.name)
        out += [f'static int call_{label}(struct weir_qmp_context *ctx, const void *args, json_t **ret_value,',
                '    struct weir_error **err)', '{', f'    return qmp_{label}(ctx, args, ret_value, err);', '}']
    array_types = sorted({c.raw['returns'] for c in schema.commands.values()
                          if element_of(c.raw.get('returns', ''))})
    for name in array_types:
        element = element_of(name)
        out.append(f'static const struct weir_schema_type array_of_{snake(element)} = {{ .name = {quoted(name)},')
        out.append(f'    .kind = WEIR_SCHEMA_ARRAY, .element = &{descriptor(element, schema)} }};')
    out.append('static const struct weir_qmp_command commands[] = {')
    for command in schema.commands.values():
        call = 'NULL' if command.raw.get('in-monitor') else f'call_{snake(command.name)}'
        returns = command.raw.get('returns')
        ref = 'NULL'
        if returns:
            element = element_of(returns)
            ref = f'&array_of_{snake(element)}' if element else f'&{descriptor(returns, schema)}'
        arguments = descriptor(schema.arguments(command), schema)
        out.append(f'    {{ {quoted(command.name)}, &{arguments}, {ref}, {call} }},')
    out += ['};', 'const struct weir_qmp_commands weir_qmp_commands = { commands, WEIR_ARRAY_SIZE(commands) };', '']
    return '\n'.join(out)


# ---- introspection ----

class Introspection:
    """query-qmp-schema's answer: types get numbers for names, in the order they are met."""

    def __init__(self, schema):
        self.schema = schema
        self.numbers = {}
        self.entries = []
        self.queue = []

    def type_name(self, name):
        if element_of(name):
            inner = self.type_name(element_of(name))
            self.once(f'[{inner}]', {'meta-type': 'array', 'element-type': inner})
            return f'[{inner}]'
        if name in INTS:
            name = 'int'
        if name in JSON_KIND:
            self.once(name, {'meta-type': 'builtin', 'json-type': JSON_KIND[name]})
            return name
        if name not in self.numbers:
            self.numbers[name] = str(len(self.numbers))
            self.queue.append(name)
        return self.numbers[name]

    def once(self, name, entry):
        if name not in self.numbers:
            self.numbers[name] = name
            self.entries.append({'name': name, **entry})

    def empty(self):
        return self.type_name('')

    def member_list(self, members):
        result = []
        for name, member in members.items():
            entry = {'name': name, 'type': self.type_name(member['type'])}
            if member.get('optional'):
                entry['default'] = None
            result.append(entry)
        return result

    def describe(self, name):
        entry = {'name': self.numbers[name]}
        definition = self.schema.types.get(name)
        if definition is None:
            return {**entry, 'meta-type': 'object', 'members': []}
        if definition.kind == 'enum':
            return {**entry, 'meta-type': 'enum', 'members': [{'name': v} for v in definition.values],
                    'values': list(definition.values)}
        if definition.kind == 'alternate':
            members = [{'type': self.type_name(b)} for b in definition.branches.values()]
            return {**entry, 'meta-type': 'alternate', 'members': members}
        entry.update({'meta-type': 'object', 'members': self.member_list(self.schema.all_members(definition))})
        if definition.kind == 'union':
            tag = self.schema.all_members(definition)[definition.discriminator]['type']
            entry['tag'] = definition.discriminator
            entry['variants'] = []
            for value in self.schema.types[tag].values:
                branch = definition.branches.get(value, '')
                entry['variants'].append({'case': value, 'type': self.type_name(branch)})
        return entry

    def object_or_empty(self, name):
        definition = self.schema.types[name]
        if not self.schema.all_members(definition):
            return self.empty()
        return self.type_name(name)

    def text(self):
        self.empty()
        for command in self.schema.commands.values():
            entry = {'name': command.name, 'meta-type': 'command',
                     'arg-type': self.object_or_empty(self.schema.arguments(command)),
                     'ret-type': self.type_name(command.raw['returns']) if 'returns' in command.raw else self.empty()}
            if command.raw.get('features'):
                entry['features'] = command.raw['features']
            self.entries.append(entry)
        for name in self.schema.events:
            self.entries.append({'name': name, 'meta-type': 'event', 'arg-type': self.object_or_empty(name + '-data')})
        while self.queue:
            self.entries.append(self.describe(self.queue.pop(0)))
        rows = ',\n'.join(json.dumps(e) for e in self.entries).split('\n')
        body = '\n'.join('    ' + quoted(row) for row in rows)
        return f'{PREFIX}\n#include "gen/schema.h"\n\nconst char weir_schema_introspection[] = "["\n{body}\n    "]";\n'


# ---- reference manual ----

def reference_member(name, member):
    optional = ', optional' if member.get('optional') else ''
    default = f', default {member["default"]}' if 'default' in member else ''
    return f'* `{name}` ({member["type"]}{optional}{default}): {member["doc"]}'


def reference_entry(schema, definition, title):
    out = [f'### {title}', '', definition.doc, '']
    members = schema.all_members(definition) if definition.kind not in ('command', 'event') else definition.members
    out += [reference_member(n, m) for n, m in members.items()]
    out += [f'* `{v}`: {doc}' for v, doc in definition.values.items()]
    if definition.kind == 'union':
        out += [f'* with `{definition.discriminator}` = `{v}`: the members of {b}'
                for v, b in definition.branches.items()]
    if definition.kind == 'alternate':
        out += [f'* {b}' for b in definition.branches.values()]
    if definition.kind == 'command':
        if 'boxed' in definition.raw:
            out.append(f'Arguments: {definition.raw["boxed"]}.')
        out += ['', f'Returns: {definition.raw.get("returns", "nothing")}.']
    out.append('')
    return out


def reference(schema):
    out = ['# QMP reference', '', 'Made from the schema in `src/qmp/schema`; do not edit.', '', '## Commands', '']
    for command in schema.commands.values():
        out += reference_entry(schema, command, command.name)
    out += ['## Events', '']
    for event in schema.events.values():
        out += reference_entry(schema, event, event.name)
    out += ['## Types', '']
    for definition in schema.types.values():
        if not getattr(definition, 'implicit', False):
            out += reference_entry(schema, definition, f'{definition.name} ({definition.kind})')
    return '\n'.join(out) + '\n'


def print_tests(schema):
    for definition in list(schema.types.values()):
        for name, member in definition.members.items():
            print(f'{definition.name}.{name} {member.get("test") or definition.test}')
    for definition in list(schema.commands.values()) + list(schema.events.values()):
        print(f'{definition.name} {definition.test}')


def write(directory, name, text):
    with open(os.path.join(directory, name), 'w', encoding='utf-8') as stream:
        stream.write(text)


def main(argv):
    if len(argv) < 3:
        sys.exit(__doc__)
    try:
        schema = Schema(argv[2:])
    except (SchemaError, KeyError) as error:
        sys.exit(f'schema: {error}')
    if argv[1] == '--tests':
        print_tests(schema)
        return
    header = Header(schema)
    write(argv[1], 'schema.h', header.text())
    write(argv[1], 'schema.c', Source(schema, header).text())
    write(argv[1], 'commands.h', commands_header(schema))
    write(argv[1], 'commands.c', commands_source(schema))
    write(argv[1], 'introspect.c', Introspection(schema).text())
    write(argv[1], 'qmp-reference.md', reference(schema))


if __name__ == '__main__':
    main(sys.argv)
