"""A keyword argument of a name that is common."""

from modelplex import serve


@serve.deployment
class Greeter:
    def greet(self, name: str) -> str:
        return f"Good day, {name}"


assert serve.run(Greeter.bind()).greet.remote(name="Ada").result() == "Good day, Ada"
