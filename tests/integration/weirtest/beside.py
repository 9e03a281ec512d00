# SPDX-License-Identifier: BSD-2-Clause
"""One script of commands, played to qemu-storage-daemon and to ours, and what is compared of the two."""
from weirtest.daemon import Daemon
from weirtest.qmp import QmpError

# The third member of a step whose answers differ on purpose: docs/compat.md says why.
DIFFERENT = 'different'


class Wait:
    """Not a command: until the job's event."""

    def __init__(self, job, what):
        self.job, self.what = job, what


def name_of(event, job):
    """Name of an event of the job, or its new state; None when it is about something else."""
    data = event.get('data', {})
    if job not in (data.get('id'), data.get('device')):
        return None
    return data['status'] if event['event'] == 'JOB_STATUS_CHANGE' else event['event']


class Player:
    """Plays the script to one daemon and notes what comes back."""

    def __init__(self, daemon):
        self.daemon, self.events, self.answers, self.texts = daemon, [], [], []

    def wait(self, job, what):
        while not any(name_of(e, job) == what for e in self.events):
            event = self.daemon.qmp.receive(20)
            assert event, f'job {job}: no {what}; answers {self.answers[-5:]}, ' \
                          f'events {[name_of(e, job) for e in self.events]}'
            self.events.append(event)

    def command(self, name, arguments):
        try:
            self.daemon.qmp(name, arguments)
            self.answers.append((name, arguments, 'ok'))
            self.texts.append('')
        except QmpError as error:
            self.answers.append((name, arguments, error.error_class))
            self.texts.append(error.text)
        self.events += self.daemon.qmp.events
        self.daemon.qmp.events.clear()

    def play(self, steps):
        for step in steps:
            if isinstance(step, Wait):
                self.wait(step.job, step.what)
            else:
                self.command(*step[:2])


def play_both(tmp, script, player=Player):
    """(steps, peer's player, ours): script(directory) -> steps; each daemon in a directory of its own."""
    players = {}
    for name, command in (('peer', ['qemu-storage-daemon']), ('ours', None)):
        directory = tmp / name
        directory.mkdir()
        daemon = Daemon(directory, command=command)
        try:
            steps = script(directory)
            players[name] = player(daemon)
            players[name].play(steps)
        finally:
            daemon.kill()
    return steps, players['peer'], players['ours']


def differences(steps, peer, ours):
    """A line for each command that does not answer as expected: alike, or differently where the step says so."""
    commands = [step for step in steps if not isinstance(step, Wait)]
    return [f'{theirs[0]} {theirs[1]}: {theirs[2]} there ({their_text}), {mine[2]} here ({my_text})'
            for step, theirs, their_text, mine, my_text
            in zip(commands, peer.answers, peer.texts, ours.answers, ours.texts)
            if (theirs[2] != mine[2]) != (step[-1] == DIFFERENT)]
