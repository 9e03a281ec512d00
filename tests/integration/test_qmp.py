# SPDX-License-Identifier: BSD-2-Clause
"""The monitor: framing, negotiation, ids, order, errors, introspection, several monitors at once."""
import json
import re
import socket
import time

import pytest

from weirtest import Qmp, QmpError, is_peer

QUERY = {'execute': 'query-version'}


@pytest.fixture
def qmp(start):
    return start().qmp


def error_of(qmp, message):
    """Class and text of the error that the message is answered with."""
    qmp.send(message)
    reply = qmp.reply()
    assert set(reply) <= {'error', 'id'} and set(reply['error']) == {'class', 'desc'}, reply
    return reply['error']['class'], reply['error']['desc']


def works(qmp):
    assert qmp('query-version')['package'] is not None


# ---- negotiation ----

def raw_connect(daemon):
    """A bare socket on the monitor, and the bytes of the greeting's line."""
    daemon.qmp.close()
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(daemon.qmp_path))
    return sock, read_line(sock)


def read_line(sock):
    line = b''
    while not line.endswith(b'\n'):
        data = sock.recv(1)
        assert data, line
        line += data
    return line


def test_greeting(start):
    sock, line = raw_connect(start())
    with sock:
        assert line.startswith(b'{"QMP":') and line.endswith(b'}\r\n'), line
        greeting = json.loads(line)['QMP']
        assert greeting['capabilities'] == ['oob'] and set(greeting['version']['qemu']) == {'major', 'minor', 'micro'}
        sock.sendall(b"{'execute':'qmp_capabilities','id':1}{'execute':'query-commands','id':[]}")
        assert read_line(sock) == b'{"return": {}, "id": 1}\r\n'
        line = read_line(sock)
        assert re.fullmatch(rb'\{"return": \[\{"name": "[\w-]+"\}(, \{"name": "[\w-]+"\})*\], "id": \[\]\}\r\n', line)


def test_qmp_negotiation(start):
    daemon = start()
    qmp = daemon.connect(negotiate=False)
    klass, text = error_of(qmp, QUERY)
    assert klass == 'CommandNotFound' and 'capabilities negotiation' in text, text
    klass, text = error_of(qmp, {'execute': 'qmp_capabilities', 'arguments': {'enable': ['telepathy']}})
    assert klass == 'GenericError' and text.endswith("does not accept value 'telepathy'"), text
    with pytest.raises(QmpError):
        qmp('query-version')
    assert qmp('qmp_capabilities', {'enable': ['oob']}) == {}
    klass, text = error_of(qmp, {'execute': 'qmp_capabilities'})
    assert klass == 'CommandNotFound' and 'already complete' in text, text
    works(qmp)


def test_exec_oob(start):
    """Only what the schema says can be run out of band, and only where it was asked for."""
    daemon = start()
    assert error_of(daemon.qmp, {'exec-oob': 'query-version'})[0] == 'GenericError'
    qmp = daemon.connect(negotiate=False)
    qmp('qmp_capabilities', {'enable': ['oob']})
    assert error_of(qmp, {'exec-oob': 'query-version', 'id': 1})[0] == 'GenericError'
    assert error_of(qmp, {'exec-oob': 'query-version', 'execute': 'query-version'})[0] == 'GenericError'
    works(qmp)


# ---- framing ----

@pytest.mark.parametrize('identifier', [0, -5, 1 << 62, 1.5, 'text', '', [1, [2]], {'a': {'b': None}}, None, True,
                                        'é\n"'])
def test_id_is_echoed(qmp, identifier):
    qmp.send({'execute': 'query-version', 'id': identifier})
    reply = qmp.reply()
    assert 'return' in reply and reply['id'] == identifier
    qmp.send({'execute': 'nope', 'id': identifier})
    reply = qmp.reply()
    assert 'error' in reply and 'id' in reply and reply['id'] == identifier


def test_no_id(qmp):
    qmp.send(QUERY)
    assert set(qmp.reply()) == {'return'}


def test_empty_arguments(qmp):
    for message in ({'execute': 'query-version', 'arguments': {}}, QUERY):
        qmp.send(message)
        assert 'return' in qmp.reply()


FRAMES = {
    'single quotes': b"{'execute':'query-version','id':'x'}",
    'mixed quotes': b"{'execute':\"query-version\",\"id\":'x'}\n",
    'a quote in the other quotes': b"{'execute':'query-version','id':'x', 'arguments': {}}",
    'all white space': b'\t\r\n {\n"execute"\t:\r"query-version" ,\n"id":"x"\n}\n',
    'no newline at the end': b'{"execute":"query-version","id":"x"}',
    'blank lines before': b'\n\r\n\n{"execute":"query-version","id":"x"}\n',
    'escapes': b'{"execute":"query\\u002dversion","id":"\\u0078"}\n',
}


@pytest.mark.parametrize('frame', FRAMES.values(), ids=FRAMES.keys())
def test_framing(qmp, frame):
    qmp.send(frame)
    assert qmp.reply()['id'] == 'x'


def test_several_messages_on_a_line(qmp):
    qmp.send(b"{'execute':'query-version','id':1}{'execute':'nope','id':2} {'execute':'query-block','id':3}\n")
    replies = [qmp.reply() for _ in range(3)]
    assert [r['id'] for r in replies] == [1, 2, 3]
    assert ['return' in r for r in replies] == [True, False, True]


def test_message_in_pieces(qmp):
    for byte in b'{"execute":"query-version","id":"in \xc3\xa9 pieces"}':
        qmp.send(bytes([byte]))
    assert qmp.reply()['id'] == 'in é pieces'


def test_unicode(qmp):
    qmp.send(b'{"execute":"query-version","id":"\\ud83d\\ude00 \xf0\x9f\x98\x80 \\u00e9"}')
    assert qmp.reply()['id'] == '😀 😀 é'


def test_large_message(qmp):
    """A megabyte comes back as it went."""
    text = 'weir' * (1 << 18)
    qmp.send({'execute': 'query-version', 'id': text})
    assert qmp.reply()['id'] == text


def test_pipelining(qmp):
    """Many requests at once: answered one by one, in their order."""
    count = 500
    qmp.send(''.join(json.dumps({'execute': 'query-block' if i % 2 else 'nope', 'id': i}) for i in range(count)))
    replies = [qmp.reply() for _ in range(count)]
    assert [r['id'] for r in replies] == list(range(count))
    assert all(('return' in r) == bool(r['id'] % 2) for r in replies)


def test_pipelined_commands_depend_on_each_other(qmp):
    for i in range(20):
        qmp.send({'execute': 'blockdev-add', 'id': 0, 'arguments': {'driver': 'null-co', 'node-name': f'n{i}'}})
        qmp.send({'execute': 'blockdev-del', 'id': 1, 'arguments': {'node-name': f'n{i}'}})
    assert all('return' in qmp.reply() for _ in range(40))


def test_resynchronisation(qmp):
    """0xFF ends whatever was begun, with an error at most."""
    for begun in (b'{ "execute": ', b'{{{[[[', b'"text', b"'", b'{"execute":"query-version","arguments":{'):
        qmp.send(begun + b'\xff' + b'{"execute":"query-version","id":"again"}')
        replies = [qmp.reply()]
        while 'error' in replies[-1]:
            assert replies[-1]['error']['class'] == 'GenericError'
            replies.append(qmp.reply())
        assert replies[-1]['id'] == 'again' and len(replies) <= 3, replies


def test_unbalanced_brace_swallows_requests(qmp):
    """Until the balancing one comes everything belongs to the same message."""
    qmp.send(b'{"x":{"execute":"query-version","id":1}{"execute":"query-version","id":2}\n')
    qmp.send(b'}\n')
    assert 'error' in qmp.reply()
    qmp.send(b'\xff{"execute":"query-version","id":3}')
    while True:
        reply = qmp.reply()
        if 'return' in reply:
            break
    assert reply['id'] == 3


MALFORMED = {
    'a number': b'5 ', 'a list': b'[]', 'a string': b'"execute"', 'a word': b'nonsense ', 'null': b'null ',
    'comma at the end': b'{"execute":"query-version",}', 'no colon': b'{"execute" "query-version"}',
    'bad escape': b'{"execute":"\\q"}', 'control character': b'{"execute":"a\x01b"}',
    'lone surrogate': b'{"execute":"\\ud83d"}', 'bad UTF-8': b'{"execute":"\xc3\x28"}', 'NUL': b'\0',
    'closing first': b'}', 'key is a number': b'{1:2}',
    'duplicate key': b'{"execute":"query-version","execute":"quit"}',
    'overlong UTF-8': b'{"execute":"\xc0\xaf"}',
}


@pytest.mark.parametrize('text', MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(qmp, text):
    """An error, and the monitor goes on."""
    qmp.send(text)
    reply = qmp.reply()
    assert reply['error']['class'] in ('GenericError', 'CommandNotFound'), reply
    qmp.send(b'\xff{"execute":"query-version","id":"after"}')
    while 'error' in reply:
        reply = qmp.reply()
    assert reply['id'] == 'after'


def test_nesting_has_a_limit(qmp):
    qmp.send(b'[' * 100000 + b'\xff')
    reply = qmp.reply()
    assert reply['error']['class'] == 'GenericError'
    qmp.send(b'\xff{"execute":"query-version","id":"after"}')
    while 'error' in reply:
        reply = qmp.reply()
    assert reply['id'] == 'after'


INPUTS = [
    ({'execute': 'query-version', 'zzz': 1}, "QMP input member 'zzz' is unexpected"),
    ({'arguments': {}}, "QMP input lacks member 'execute'"),
    ({'execute': 5}, "QMP input member 'execute' must be a string"),
    ({'execute': 'query-version', 'arguments': []}, "QMP input member 'arguments' must be an object"),
    ([], 'QMP input must be a JSON object'),
    ({}, "QMP input lacks member 'execute'"),
]


@pytest.mark.parametrize('message, text', INPUTS)
def test_input_errors(qmp, message, text):
    assert error_of(qmp, message) == ('GenericError', text)
    works(qmp)


def test_input_error_has_the_id(qmp):
    qmp.send({'execute': 'query-version', 'zzz': 1, 'id': 'x'})
    assert qmp.reply()['id'] == 'x'


NUMBERS = [(1 << 40, True), (0, True), (1 << 63, False), (1.5, False), ('5', False), (True, False),
           (1e3, False)]


@pytest.mark.parametrize('size, good', NUMBERS)
def test_integers(qmp, size, good):
    """Only integers that fit are taken for one."""
    message = {'execute': 'blockdev-add', 'arguments': {'driver': 'null-co', 'node-name': 'n', 'size': size}}
    if good:
        qmp.send(message)
        assert 'return' in qmp.reply()
    else:
        assert error_of(qmp, message)[0] == 'GenericError'


@pytest.mark.skipif(is_peer(), reason='it dies')
def test_negative_size(qmp):
    assert error_of(qmp, {'execute': 'blockdev-add', 'arguments': {'driver': 'null-co', 'node-name': 'n',
                                                                   'size': -1}})[0] == 'GenericError'


# ---- several monitors ----

def test_several_monitors(start):
    """All see all events once they have negotiated; answers go to who asked."""
    daemon = start()
    silent, second = daemon.connect(negotiate=False), daemon.connect()
    monitors = (daemon.qmp, second)
    for i, qmp in enumerate(monitors):
        qmp.send({'execute': 'query-version', 'id': i})
    assert [qmp.reply()['id'] for qmp in monitors] == [0, 1]
    for node in ('n', 't'):
        daemon.qmp('blockdev-add', {'driver': 'null-co', 'node-name': node, 'size': 1 << 20, 'read-zeroes': True})
    second('blockdev-mirror', job_id='j', device='n', target='t', sync='full')
    seen = []
    for qmp in monitors:
        qmp.job_wait('j', 'created')
        ready = qmp.event('BLOCK_JOB_READY', device='j')
        assert set(ready['timestamp']) == {'seconds', 'microseconds'}
        seen.append(ready)
    assert seen[0] == seen[1]
    daemon.qmp('job-cancel', id='j')
    for qmp in monitors:
        qmp.job_wait('j', 'null')
    silent.send({'execute': 'qmp_capabilities', 'id': 0})
    assert silent.receive() == {'return': {}, 'id': 0}


def test_event_time(start):
    daemon = start()
    before = time.time()
    daemon.qmp('blockdev-create', job_id='c', options={'driver': 'file', 'filename': str(daemon.directory / 'new'),
                                                       'size': 4096})
    stamp = daemon.qmp.job_wait('c', 'concluded')['timestamp']
    assert before - 1 < stamp['seconds'] + stamp['microseconds'] / 1e6 < time.time() + 1
    assert 0 <= stamp['microseconds'] < 1000000


def test_client_leaves_in_the_middle(start):
    """Half a message of a client that leaves is forgotten; the next one starts from the greeting."""
    daemon = start()
    for _ in range(3):
        daemon.qmp.send(b'{"execute":"blockdev-add","arguments":{"driver":')
        daemon.qmp.close()
        daemon.qmp = Qmp(daemon.qmp_path)
        works(daemon.qmp)


def test_client_that_does_not_read(start):
    """A monitor that is never read from holds up nobody else."""
    daemon = start()
    lazy = daemon.connect()
    lazy.socket.setblocking(False)
    request = json.dumps({'execute': 'query-qmp-schema'}).encode() * 50
    try:
        for _ in range(1000):
            lazy.socket.sendall(request)
    except BlockingIOError:
        pass
    begin = time.monotonic()
    for _ in range(20):
        works(daemon.qmp)
    assert time.monotonic() - begin < 5
    lazy.close()


# ---- queries ----

def test_query_version(qmp):
    version = qmp('query-version')
    assert set(version) == {'qemu', 'package'} and isinstance(version['package'], str)
    assert version == qmp.greeting['QMP']['version']
    assert all(isinstance(version['qemu'][key], int) for key in ('major', 'minor', 'micro'))
    assert version['qemu']['major'] >= 7


COMMANDS = '''blockdev-add blockdev-create blockdev-del query-named-block-nodes query-block query-blockstats
    x-debug-query-block-graph block_resize block-export-add block-export-del query-block-exports nbd-server-start
    nbd-server-stop object-add object-del qom-get qom-set query-version query-commands query-qmp-schema quit
    qmp_capabilities blockdev-mirror query-jobs query-block-jobs job-pause job-resume job-cancel job-complete
    job-dismiss job-finalize block-job-cancel block-job-set-speed block-job-pause block-job-resume
    block-job-complete block-job-dismiss block-job-finalize'''.split()


def test_query_commands(qmp):
    names = [c['name'] for c in qmp('query-commands')]
    assert len(names) == len(set(names)) and set(names) >= set(COMMANDS)
    for name in names:
        if name not in ('quit', 'nbd-server-stop'):
            with pytest.raises(QmpError) as caught:  # each of them is there, and says what it does not know
                qmp(name, {'no-such-argument': 1})
            assert (caught.value.error_class == 'GenericError') or name == 'qmp_capabilities', caught.value


def types_of(schema):
    return {entry['name']: entry for entry in schema}


def test_introspection(qmp):
    """The schema is closed, well formed, and agrees with what the daemon does."""
    schema = qmp('query-qmp-schema')
    types = types_of(schema)
    assert len(types) == len(schema)
    commands = {e['name'] for e in schema if e['meta-type'] == 'command'}
    assert commands == {c['name'] for c in qmp('query-commands')}
    used = set()
    for entry in schema:
        kind = entry['meta-type']
        if kind in ('command', 'event'):
            used |= {entry['arg-type']} | ({entry['ret-type']} if kind == 'command' else set())
        elif kind == 'object':
            names = [m['name'] for m in entry['members']]
            assert len(names) == len(set(names))
            used |= {m['type'] for m in entry['members']} | {v['type'] for v in entry.get('variants', [])}
            assert ('tag' in entry) == ('variants' in entry)
            if 'tag' in entry:
                tag = types[next(m['type'] for m in entry['members'] if m['name'] == entry['tag'])]
                assert {v['case'] for v in entry['variants']} <= set(tag['values'])
        elif kind == 'array':
            used.add(entry['element-type'])
        elif kind == 'alternate':
            used |= {m['type'] for m in entry['members']}
        elif kind == 'enum':
            assert entry['values'] == [m['name'] for m in entry['members']] and entry['values']
        else:
            assert kind == 'builtin' and entry['json-type'] == ('int' if entry['name'] == 'int' else entry['json-type'])
    missing = used - set(types)
    assert not missing, missing
    for entry in schema:
        if entry['meta-type'] == 'object':
            assert entry['name'] in used, entry['name']
            assert entry['name'].isdigit()


def members(types, name):
    return {m['name']: m for m in types[name]['members']}


def test_introspection_of_mirror(qmp):
    """What a manager looks for: arguments, which of them are optional, values, features."""
    types = types_of(qmp('query-qmp-schema'))
    arguments = members(types, types['blockdev-mirror']['arg-type'])
    optional = {name for name, m in arguments.items() if 'default' in m}
    assert set(arguments) - optional == {'device', 'target', 'sync'}
    assert optional >= {'job-id', 'speed', 'granularity', 'copy-mode', 'on-source-error', 'on-target-error',
                        'filter-node-name', 'auto-finalize', 'auto-dismiss'}
    assert set(types[arguments['copy-mode']['type']]['values']) == {'background', 'write-blocking'}
    assert all(m['default'] is None for m in arguments.values() if 'default' in m)
    drivers = types[types['blockdev-add']['arg-type']]
    assert drivers['tag'] == 'driver' and {v['case'] for v in drivers['variants']} >= {'file', 'raw', 'null-co'}
    result = types[types['query-block-exports']['ret-type']]
    assert result['meta-type'] == 'array'
    assert set(members(types, result['element-type'])) >= {'id', 'type', 'node-name', 'shutting-down'}
    assert types['x-debug-query-block-graph'].get('features') in (['unstable'], None if is_peer() else 0)
    assert set(members(types, types['BLOCK_JOB_READY']['arg-type'])) == {'type', 'device', 'len', 'offset', 'speed'}


def test_query_block_is_empty(qmp):
    qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n'})
    assert qmp('query-block') == []


# ---- quit ----

def test_quit(start):
    """Answered, then every monitor is closed and the daemon ends well."""
    daemon = start()
    second = daemon.connect()
    assert daemon.qmp('quit') == {}
    assert daemon.wait(10) == 0
    for qmp in (daemon.qmp, second):
        while qmp.receive(5) is not None:
            pass
        assert qmp.closed


def test_quit_with_requests_behind_it(start):
    """What comes after quit in the same write does no harm."""
    daemon = start()
    daemon.qmp.send("{'execute':'quit','id':1}" + "{'execute':'query-qmp-schema','id':2}" * 20)
    assert daemon.qmp.reply()['id'] == 1
    assert daemon.wait(10) == 0
