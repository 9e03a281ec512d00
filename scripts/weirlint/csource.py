# SPDX-License-Identifier: BSD-2-Clause
"""Just enough of a C parser: which functions a file defines, declares and calls.

Comments, literals and preprocessor lines are blanked (their line structure stays), then braces are counted. It
relies on the layout that clang-format makes, not on types; what it cannot see, the checks do not claim.
"""
import functools
import re

IDENT = r'[A-Za-z_]\w*'
KEYWORDS = {'if', 'for', 'while', 'switch', 'return', 'sizeof', 'do', 'else', 'case', 'defined', 'alignof',
            '__attribute__', '__typeof__', 'typeof', '_Alignof', '_Static_assert', '_Generic', 'asm', '__asm__',
            'weir_printf', '__builtin_expect', 'offsetof'}
LITERAL = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
DIRECTIVE = re.compile(r'^[ \t]*#(?:[^\n\\]|\\.|\\\n)*', re.M | re.S)


def _blank(match):
    text = match.group(0)
    if text[0] in '"\'':
        return text[0] + ' ' * (len(text) - 2) + text[-1]
    return ''.join(c if c == '\n' else ' ' for c in text)


def blank_literals(text):
    return LITERAL.sub(_blank, text)


def outermost(text):
    """The text with everything inside parentheses removed."""
    out, depth = [], 0
    for c in text:
        if c == '(':
            depth += 1
        if depth == 0:
            out.append(c)
        if c == ')':
            depth -= 1
            if depth == 0:
                out.append('()')
    return ''.join(out)


def strip_attributes(head):
    """Without __attribute__((...)) and the like, whose parentheses look like parameters."""
    while True:
        match = re.search(r'\b(?:__attribute__|weir_printf|__typeof__|_Alignas)\s*\(', head)
        if not match:
            return head
        end, depth = match.end(), 1
        while end < len(head) and depth:
            depth += {'(': 1, ')': -1}.get(head[end], 0)
            end += 1
        head = head[:match.start()] + ' ' * (end - match.start()) + head[end:]


class Function:
    def __init__(self, head, body, line, end_line):
        self.head, self.body, self.line, self.end_line = strip_attributes(head), body, line, end_line
        match = re.search(rf'({IDENT})\s*\(', self.head)
        self.name = match.group(1) if match else ''
        self.static = bool(re.search(r'\bstatic\b', head))
        self.may_wait = 'weir_co_fn' in outermost(self.head)
        self.length = end_line - line + 1

    def calls(self):
        """(name, line, member) for each `name(`; member: called through `->` or `.`."""
        for match in re.finditer(rf'(->\s*|\.\s*)?\b({IDENT})\s*\(', self.body):
            if match.group(2) not in KEYWORDS:
                yield match.group(2), self.line_of(match.start(2)), bool(match.group(1))

    def line_of(self, position):
        return self.end_line - self.body.count('\n', position)


class CSource:
    def __init__(self, text):
        self.raw = text
        literal_free = blank_literals(text)
        self.macros = [(m.group(1), m.group(2)) for m in
                       re.finditer(rf'^[ \t]*#\s*define\s+({IDENT})\([^)]*\)((?:[^\n\\]|\\.|\\\n)*)', literal_free,
                                   re.M | re.S)]
        self.code = DIRECTIVE.sub(lambda m: ''.join(c if c == '\n' else ' ' for c in m.group(0)), literal_free)
        # extern "C" { is no nesting
        self.code = re.sub(r'\bextern\s+" "\s*\{', lambda m: ' ' * len(m.group(0)), self.code)

    @functools.cached_property
    def includes(self):
        """(name, line, quoted) of each #include."""
        return [(m.group(2), self.raw.count('\n', 0, m.start()) + 1, m.group(1) == '"')
                for m in re.finditer(r'^[ \t]*#\s*include\s*(["<])([^">]+)[">]', self.raw, re.M)]

    @functools.cached_property
    def _toplevel(self):
        """(head, body or None, position of the head, position of the end) of all that is outside of braces."""
        items, depth, head_start, body_start, paren = [], 0, 0, 0, 0
        for i, c in enumerate(self.code):
            if c == '{':
                if depth == 0:
                    body_start = i
                depth += 1
            elif c == '}':
                depth = max(depth - 1, 0)
                if depth == 0:
                    head = self.code[head_start:body_start]
                    if self._is_function(head):
                        items.append((head, self.code[body_start:i + 1], head_start, i))
                        head_start = i + 1
            elif c == ';' and depth == 0:
                items.append((self.code[head_start:i], None, head_start, i))
                head_start = i + 1
        return items

    @staticmethod
    def _is_function(head):
        plain = outermost(strip_attributes(head))
        return '()' in plain and '=' not in plain and not re.match(r'\s*typedef\b', plain)

    @functools.cached_property
    def functions(self):
        out = []
        for head, body, start, end in self._toplevel:
            if body is None:
                continue
            first = start + len(head) - len(head.lstrip())
            out.append(Function(head, body, self.code.count('\n', 0, first) + 1, self.code.count('\n', 0, end) + 1))
        return out

    @functools.cached_property
    def prototypes(self):
        """(name, may wait) of each declared function."""
        out = []
        for head, body, _, _ in self._toplevel:
            if body is None and self._is_function(head):
                function = Function(head, '', 0, 0)
                out.append((function.name, function.may_wait))
        return out

    @functools.cached_property
    def slots(self):
        """(name, may wait) of each function pointer that is a member of a struct."""
        out = []
        for struct in re.finditer(r'\bstruct\s+\w+\s*\{', self.code):
            depth, i = 1, struct.end()
            while i < len(self.code) and depth:
                depth += {'{': 1, '}': -1}.get(self.code[i], 0)
                i += 1
            for member in self.code[struct.end():i - 1].split(';'):
                match = re.search(rf'\(\s*\*\s*({IDENT})\s*\)\s*\(', strip_attributes(member))
                if match:
                    out.append((match.group(1), 'weir_co_fn' in outermost(member)))
        return out

    @functools.cached_property
    def waiting_parameters(self):
        """Names of function-pointer parameters that may wait: `void (*run)(void *arg) weir_co_fn`."""
        return set(re.findall(rf'\(\s*\*\s*({IDENT})\s*\)\s*\([^()]*\)\s*weir_co_fn', self.code))
