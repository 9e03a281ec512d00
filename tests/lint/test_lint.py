# SPDX-License-Identifier: BSD-2-Clause
"""Each check of scripts/lint notices what it is there for, and lets the right form pass."""
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPDX = '/* SPDX-License-Identifier: BSD-2-Clause */\n'


@pytest.fixture
def lint(tmp_path):
    """lint(check, {path: text}) -> what scripts/lint says about a tree of these files."""
    def run(check, files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run([sys.executable, ROOT / 'scripts/lint', '--root', tmp_path, check],
                              capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1) and not done.stderr, done.stderr
        assert (done.returncode == 0) == done.stdout.endswith('1 passed, 0 failed\n')
        return done.stdout
    return run


def good(output):
    return output.endswith('1 passed, 0 failed\n')


def c(text):
    return SPDX + text


def test_spdx(lint):
    assert 'src/io/a.c:1: first line lacks' in lint('spdx', {'src/io/a.c': '/* hello */\n'})


def test_spdx_after_interpreter(lint):
    assert good(lint('spdx', {'scripts/x': '#!/bin/sh\n# SPDX-License-Identifier: BSD-2-Clause\n'}))
    assert 'scripts/x:1' in lint('spdx', {'scripts/x': '#!/bin/sh\nset -e\n'})


@pytest.mark.parametrize('line, message', [
    ('int a; ' + 'int b; ' * 20, 'columns, limit 110'),
    ('/* ' + 'word ' * 30 + '*/', 'columns, limit 120'),
    ('int a; ', 'white space at the end'),
    ('\tint a;', 'tabulator'),
    ('/* T' 'ODO: later */', 'unfinished'),
    ('/* F' 'IXME */', 'unfinished'),
])
def test_text(lint, line, message):
    assert message in lint('text', {'src/io/a.c': c(line + '\n')})


@pytest.mark.parametrize('path, include, message', [
    ('src/base/a.c', 'sys/sys.h', 'base must not depend on sys'),
    ('src/io/a.c', 'meta/meta.h', 'io must not depend on meta'),
    ('src/meta/a.c', 'qmp/qmp.h', 'meta must not depend on qmp'),
    ('src/format/raw/raw.c', 'protocol/file.h', 'must not know each other'),
    ('src/format/raw/raw.c', 'format/qcow2/table.h', 'driver raw must not include driver qcow2'),
    ('src/protocol/file.c', 'protocol/null.h', 'driver file must not include driver null'),
    ('src/export/nbd/server.c', 'job/job.h', 'must not know each other'),
    ('src/co/a.c', 'gen/schema.h', 'below the layers that know the schema'),
    ('src/io/a.c', 'sys/sim/world.h', 'for tests only'),
    ('src/io/a.c', 'a.h', 'by its path below src'),
    ('src/new/a.c', 'base/macros.h', 'no layer'),
])
def test_layers(lint, path, include, message):
    assert message in lint('layers', {path: c(f'#include "{include}"\n')})


def test_layers_right_way(lint):
    assert good(lint('layers', {
        'src/io/a.c': c('#include "io/a.h"\n#include "graph/node.h"\n#include "gen/schema.h"\n#include <stdio.h>\n'),
        'src/format/raw/raw.c': c('#include "format/raw/raw.h"\n#include "meta/meta.h"\n'),
        'src/protocol/file_lock.c': c('#include "protocol/file.h"\n'),
        'src/sys/sim/disk.c': c('#include "sys/sim/disk.h"\n'),
        'tests/sim/main.c': c('#include "sys/sim/world.h"\n#include "qmp/qmp.h"\n')}))


def long_function(lines, name='slow'):
    return f'static int {name}(int a)\n{{\n' + '    a++;\n' * (lines - 4) + '    return a;\n}\n'


def test_function_length(lint):
    assert 'slow has 71 lines' in lint('sizes', {'src/io/a.c': c(long_function(71))})


def test_function_length_limit_itself(lint):
    assert good(lint('sizes', {'src/io/a.c': c(long_function(70))}))


def test_ratchet_holds(lint):
    files = {'src/io/a.c': c(long_function(80)), 'scripts/lint-ratchet.txt': 'src/io/a.c slow 80\n'}
    assert good(lint('sizes', files))


@pytest.mark.parametrize('lines, message', [
    (81, 'shrink it'), (79, 'lower the figure'), (50, 'take it out')])
def test_ratchet_only_shrinks(lint, lines, message):
    files = {'src/io/a.c': c(long_function(lines)), 'scripts/lint-ratchet.txt': 'src/io/a.c slow 80\n'}
    assert message in lint('sizes', files)


def test_ratchet_forgets(lint):
    assert 'take the line out' in lint('sizes', {'src/io/a.c': c('int a;\n'),
                                                 'scripts/lint-ratchet.txt': 'src/io/a.c slow 80\n'})


def test_file_length(lint):
    assert '1001 lines' in lint('sizes', {'src/io/a.c': c('int a;\n' * 1000)})
    assert good(lint('sizes', {'src/io/a.c': c('int a;\n' * 999)}))


@pytest.mark.parametrize('call', ['close(fd)', 'pthread_create(&t, 0, f, 0)', 'clock_gettime(0, &ts)', 'usleep(1)',
                                  'fork()', 'rand()', 'time(NULL)', 'read(fd, p, 1)'])
def test_os_calls(lint, call):
    text = c(f'static void f(int fd)\n{{\n    {call};\n}}\n')
    assert 'OS calls live in src/sys' in lint('os_calls', {'src/io/a.c': text})


def test_os_calls_allowed(lint):
    text = c('static void f(struct s *s)\n{\n    s->read(1); /* close(fd) */\n    s->file.close(2);\n'
             '    puts("open(3)");\n    thread_time(s);\n}\n')
    assert good(lint('os_calls', {'src/io/a.c': text, 'src/sys/real.c': c('void g(void)\n{\n    close(1);\n}\n')}))


def test_output(lint):
    text = c('void f(void)\n{\n    printf("x");\n}\n')
    assert 'f calls printf()' in lint('output', {'src/io/a.c': text})


def test_output_of_tools(lint):
    assert good(lint('output', {'src/tools/a.c': c('void f(void)\n{\n    printf("x");\n    exit(1);\n}\n')}))


CO_HEADER = c('int weir_wait(int a) weir_co_fn;\nint weir_go(void (*run)(void *arg) weir_co_fn, void *arg);\n'
              'struct weir_driver {\n    int (*submit)(int a) weir_co_fn;\n    int (*map)(int a);\n};\n'
              '#define WEIR_HOLD(a) weir_wait(a)\n')


@pytest.mark.parametrize('body, message', [
    ('static int f(void)\n{\n    return weir_wait(1);\n}\n', 'f calls weir_wait(), which may wait'),
    ('static int f(struct weir_driver *d)\n{\n    return d->submit(1);\n}\n', 'f calls submit(), which may wait'),
    ('static int f(void)\n{\n    WEIR_HOLD(1);\n}\n', 'f calls WEIR_HOLD()'),
    ('static int own(void) weir_co_fn\n{\n}\nstatic int f(void)\n{\n    return own();\n}\n', 'f calls own()'),
    ('static int f(void (*run)(void *arg) weir_co_fn, void *arg)\n{\n    run(arg);\n}\n', 'f calls run()'),
    ('const struct weir_driver d = {\n    .map = weir_wait,\n};\n', 'the slot map is not marked'),
])
def test_co(lint, body, message):
    assert message in lint('co', {'src/co/co.h': CO_HEADER, 'src/io/a.c': c(body)})


def test_co_right_way(lint):
    body = ('static int f(struct weir_driver *d) weir_co_fn;\n'
            'static int f(struct weir_driver *d)\n{\n    weir_wait(1);\n    return d->submit(1) + d->map(2);\n}\n'
            'int g(void)\n{\n    return weir_go(weir_wait, 0);\n}\n'
            'const struct weir_driver d = {\n    .submit = weir_wait,\n};\n')
    assert good(lint('co', {'src/co/co.h': CO_HEADER, 'src/io/a.c': c(body)}))


SCHEMA = '[{ "command": "go", "doc": "Goes.", "test": "test_go", "args": { "far": { "type": "bool", "doc": "x"%s } } }]'


def test_option_without_test(lint):
    files = {'src/qmp/schema/a.json': SCHEMA % ', "test": "test_far"',
             'tests/integration/test_a.py': 'def test_go(): 0\n'}
    assert 'go.far: there is no test_far' in lint('options', files)


def test_option_with_test(lint):
    files = {'src/qmp/schema/a.json': SCHEMA % '', 'tests/integration/test_a.py': 'def test_go(): 0\n'}
    assert good(lint('options', files))


def test_option_names_no_test(lint):
    files = {'src/qmp/schema/a.json': '[{ "command": "go", "doc": "Goes." }]'}
    assert 'go names no test' in lint('options', files)


@pytest.mark.parametrize('text, message', [
    ('See [it](gone.md).\n', 'no such file'),
    ('# A b\n\nSee [it](#c).\n', 'no such heading'),
    ('Look at `src/io/gone.c`.\n', 'does not exist'),
])
def test_docs(lint, text, message):
    assert message in lint('docs', {'README.md': text})


def test_docs_links(lint):
    text = '# A b, c\n\n[x](docs/y.md) [z](#a-b-c) [w](https://example.org/)\n\n```\n[not a link](gone)\n```\n'
    assert good(lint('docs', {'README.md': text, 'docs/y.md': '[up](../README.md#a-b-c)\n'}))


def test_docs_code(lint):
    page = '# How\n\n<!-- code: examples/a.c -->\n```c\n%s```\n'
    files = {'examples/a.c': c('int a;\n'), 'docs/how.md': page % c('int a;\n')}
    assert good(lint('docs', files))
    assert 'docs/how.md:3: code differs from examples/a.c' in lint('docs', {'docs/how.md': page % c('int b;\n')})
    assert 'no such file' in lint('docs', {'docs/how.md': page.replace('a.c', 'gone.c') % c('int a;\n')})


def test_docs_compat(lint):
    files = {'src/qmp/schema/a.json': SCHEMA % '', 'docs/compat.md': 'nothing\n'}
    assert 'command `go` of the schema is not mentioned' in lint('docs', files)
    assert good(lint('docs', {'docs/compat.md': '| `go` | same |\n'}))


def test_layout(lint):
    assert 'differ from clang-format' in lint('layout', {'.clang-format': (ROOT / '.clang-format').read_text(),
                                                         'src/io/a.c': c('int  f(void) { return 1; }\n')})


def test_tidy_needs_its_build(lint):
    assert 'build-clang is missing' in lint('tidy', {'.clang-tidy': 'Checks: "-*"\n'})


def test_every_check_is_tested():
    """A check that is added without a test here is one that may find nothing."""
    listed = subprocess.run([ROOT / 'scripts/lint', '--list'], capture_output=True, text=True, check=True).stdout
    own = pathlib.Path(__file__).read_text()
    for name in (line.split()[0] for line in listed.splitlines()):
        assert f"lint('{name}'" in own, name
